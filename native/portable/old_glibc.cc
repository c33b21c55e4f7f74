/* What a library built here needs of glibc, in the versions that older systems have: the oldest that Node 20 itself
   runs on is 2.28. Only linked into the libraries that packages carry (`make portable`): its definitions take the
   place of the newer versions that the linker would choose, and exports.map hides them. What is not used falls to
   --gc-sections. */
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Calls of `name` go to glibc's `name` of `version`, whose parameters and meaning are the same. */
#define PD_OLD(name, version)                                                                        \
  asm(".section .text." #name ",\"ax\",@progbits\n.globl " #name "\n.type " #name ",@function\n" #name ":\n" \
      "  jmp old_" #name "@PLT\n.size " #name ", . - " #name "\n.symver old_" #name ", " #name "@" version "\n.text\n");
#define PD_ORIGINAL(name) PD_OLD(name, "GLIBC_2.2.5")

PD_ORIGINAL(log)
PD_ORIGINAL(pthread_create)
PD_ORIGINAL(pthread_join)
PD_ORIGINAL(pthread_once)
PD_ORIGINAL(pthread_sigmask)
PD_OLD(pthread_setname_np, "GLIBC_2.12")

/* The rest is what CUDA's static runtime calls. */
PD_ORIGINAL(dlclose)
PD_ORIGINAL(dlerror)
PD_OLD(dlmopen, "GLIBC_2.3.4")
PD_ORIGINAL(dlopen)
PD_ORIGINAL(dlsym)
PD_ORIGINAL(dlvsym)
PD_ORIGINAL(pthread_condattr_setpshared)
PD_ORIGINAL(pthread_detach)
PD_ORIGINAL(pthread_getspecific)
PD_ORIGINAL(pthread_key_create)
PD_ORIGINAL(pthread_key_delete)
PD_ORIGINAL(pthread_kill)
PD_ORIGINAL(pthread_mutex_trylock)
PD_ORIGINAL(pthread_mutexattr_destroy)
PD_ORIGINAL(pthread_mutexattr_init)
PD_ORIGINAL(pthread_mutexattr_setpshared)
PD_ORIGINAL(pthread_mutexattr_settype)
PD_ORIGINAL(pthread_rwlock_destroy)
PD_ORIGINAL(pthread_rwlock_init)
PD_ORIGINAL(pthread_rwlock_rdlock)
PD_ORIGINAL(pthread_rwlock_timedrdlock)
PD_ORIGINAL(pthread_rwlock_timedwrlock)
PD_ORIGINAL(pthread_rwlock_tryrdlock)
PD_ORIGINAL(pthread_rwlock_trywrlock)
PD_ORIGINAL(pthread_rwlock_unlock)
PD_ORIGINAL(pthread_rwlock_wrlock)
PD_ORIGINAL(pthread_rwlockattr_destroy)
PD_ORIGINAL(pthread_rwlockattr_init)
PD_ORIGINAL(pthread_rwlockattr_setpshared)
PD_ORIGINAL(pthread_setspecific)
PD_ORIGINAL(pthread_spin_destroy)
PD_ORIGINAL(pthread_spin_init)
PD_ORIGINAL(pthread_spin_lock)
PD_ORIGINAL(pthread_spin_trylock)
PD_ORIGINAL(pthread_spin_unlock)
PD_ORIGINAL(sem_destroy)
PD_ORIGINAL(sem_init)
PD_ORIGINAL(sem_post)
PD_ORIGINAL(sem_timedwait)
PD_ORIGINAL(sem_trywait)
PD_ORIGINAL(sem_wait)
PD_ORIGINAL(shm_open)
PD_ORIGINAL(shm_unlink)

extern "C" {
/* Before 2.33 these were inline. The kernel's structure is glibc's on x86-64. */
int fstat(int file, struct stat *status) { return (int)syscall(SYS_fstat, file, status); }
int fstat64(int file, struct stat64 *status) { return (int)syscall(SYS_fstat, file, status); }

/* libstdc++'s random_device; getrandom gives so few bytes at once, and does not fail. */
unsigned arc4random() {
  unsigned bits = 0;
  while (getrandom(&bits, sizeof bits, 0) != (ssize_t)sizeof bits) {
  }
  return bits;
}

/* libstdc++ counts references without atomics while this is not 0. */
extern char __libc_single_threaded;
char __libc_single_threaded = 0;
}
