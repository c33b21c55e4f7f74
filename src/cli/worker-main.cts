/** What the gateway starts as a worker process: worker.ts with a larger libuv pool, since each native wait occupies a thread of it and with
 *  the default of 4 a worker's copies would wait for its steps. CommonJS, because Node reads that without the pool: once the pool has been
 *  used its size is fixed. */
process.env.UV_THREADPOOL_SIZE ??= '16';
void import('./worker.js');
