/* What a library built here needs of glibc, in the versions that older systems have: the oldest that Node 20 itself
   runs on is 2.28. Only linked into the library that the npm package carries (`make portable`): its definitions take
   the place of the newer versions that the linker would choose, and exports.map hides them. */
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* `name` with `parameters` becomes glibc's `name` of `version`; `call` are the parameters' names. */
#define PD_OLD(result, name, version, parameters, call)                      \
  extern "C" result old_##name parameters;                                   \
  asm(".symver old_" #name ", " #name "@" version);                          \
  extern "C" result name parameters { return old_##name call; }

extern "C" {
using Start = void *(void *);
using Once = void();
}

PD_OLD(int, pthread_create, "GLIBC_2.2.5", (pthread_t * thread, const pthread_attr_t *attributes, Start *start, void *argument),
       (thread, attributes, start, argument))
PD_OLD(int, pthread_join, "GLIBC_2.2.5", (pthread_t thread, void **result), (thread, result))
PD_OLD(int, pthread_once, "GLIBC_2.2.5", (pthread_once_t * control, Once *run), (control, run))
PD_OLD(int, pthread_setname_np, "GLIBC_2.12", (pthread_t thread, const char *name), (thread, name))
PD_OLD(int, pthread_sigmask, "GLIBC_2.2.5", (int how, const sigset_t *set, sigset_t *before), (how, set, before))
PD_OLD(double, log, "GLIBC_2.2.5", (double x), (x))

/* Before 2.33 these were inline. The kernel's structure is glibc's on x86-64. */
extern "C" int fstat(int file, struct stat *status) { return (int)syscall(SYS_fstat, file, status); }
extern "C" int fstat64(int file, struct stat64 *status) { return (int)syscall(SYS_fstat, file, status); }

/* libstdc++ counts references without atomics while this is 1. */
extern "C" char __libc_single_threaded;
char __libc_single_threaded = 0;
