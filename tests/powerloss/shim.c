/* Records every call that changes files below one folder, so that a disk after a loss of power can be rebuilt from it.
 *
 * Loaded by LD_PRELOAD. ROOKERY_POWERLOSS_DIR is the folder, ROOKERY_POWERLOSS_TRACE the file records are appended to.
 *
 * Each change is bracketed: a record before the call (with the octets of a write), one with its result after it. What a
 * sync covers is then decided by the reader: changes whose second record comes before the sync's first. Records are
 * numbered and time-stamped (CLOCK_MONOTONIC) under one lock, so their order is the file's order; the calls themselves
 * run outside of it, except that changes of names are serialised among themselves, and so are writes to one file.
 *
 * Only calls through libc are seen. The reader proves that none was missed by comparing what it rebuilds with the real
 * folder. What cannot be recorded (shared writable mappings, splice and the like) is refused, so that callers fall back to
 * writes, or is recorded as UNSUPPORTED, which fails the run. */
#define _GNU_SOURCE
#undef _FILE_OFFSET_BITS
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum kind { OPEN = 1, CLOSE, DUP, WRITE, SYNC, SYNCALL, SETLEN, EXTEND, RENAME, UNLINK, RMDIR, MKDIR, LINK, UNSUPPORTED,
            END = 100 };

/* Little-endian and without padding: eight 64-bit words, then two paths, then data. */
struct record {
    uint64_t seq, time_ns, kind;
    int64_t fd, arg;
    uint64_t start;              /* of END: the seq of its first record */
    uint32_t path1, path2;
    uint64_t data;
};

#define FDS 65536
#define STRIPES 64
static struct { ino_t ino; int append; int tracked; } fds[FDS];
static pthread_mutex_t record_lock = PTHREAD_MUTEX_INITIALIZER, names_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t write_lock[STRIPES];
static char root[PATH_MAX];
static size_t root_len;
static int trace_fd = -1;
static uint64_t seq_next = 1;

#define REAL(ret, name, ...) \
    static ret (*real_##name)(__VA_ARGS__); \
    if (!real_##name) *(void **)&real_##name = dlsym(RTLD_NEXT, #name);

static void all_out(const void *octets, size_t n) {
    const char *at = octets;
    while (n) {
        long wrote = syscall(SYS_write, trace_fd, at, n);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote <= 0) { static const char text[] = "powerloss shim: the trace cannot be written\n";
            syscall(SYS_write, 2, text, sizeof text - 1); abort(); }
        at += wrote; n -= wrote;
    }
}

static uint64_t put(enum kind kind, int64_t fd, int64_t arg, uint64_t start, const char *p1, const char *p2,
                    const struct iovec *iov, int count, size_t limit) {
    int saved = errno;
    struct record r = { .kind = kind, .fd = fd, .arg = arg, .start = start };
    r.path1 = p1 ? strlen(p1) : 0; r.path2 = p2 ? strlen(p2) : 0;
    for (int i = 0; i < count; i++) r.data += iov[i].iov_len;
    if (r.data > limit) r.data = limit;
    size_t total = sizeof r + r.path1 + r.path2 + r.data;
    char small[4096], *buffer = total <= sizeof small ? small : malloc(total);
    if (!buffer) abort();
    char *at = buffer + sizeof r;
    memcpy(at, p1 ? p1 : "", r.path1); at += r.path1;
    memcpy(at, p2 ? p2 : "", r.path2); at += r.path2;
    for (size_t left = r.data, i = 0; left; i++) {
        size_t n = iov[i].iov_len < left ? iov[i].iov_len : left;
        memcpy(at, iov[i].iov_base, n); at += n; left -= n;
    }
    pthread_mutex_lock(&record_lock);
    struct timespec now; clock_gettime(CLOCK_MONOTONIC, &now);
    r.seq = seq_next++; r.time_ns = now.tv_sec * 1000000000ull + now.tv_nsec;
    memcpy(buffer, &r, sizeof r);
    all_out(buffer, total);
    pthread_mutex_unlock(&record_lock);
    if (buffer != small) free(buffer);
    errno = saved;
    return r.seq;
}
static uint64_t begin(enum kind kind, int64_t fd, int64_t arg, const char *p1, const char *p2) {
    return put(kind, fd, arg, 0, p1, p2, NULL, 0, 0); }
static void end(uint64_t start, int64_t result) { put(END, -1, result, start, NULL, NULL, NULL, 0, 0); }
static void unsupported(const char *what) { put(UNSUPPORTED, -1, 0, 0, what, NULL, NULL, 0, 0); }

__attribute__((constructor)) static void setup(void) {
    for (int i = 0; i < STRIPES; i++) pthread_mutex_init(&write_lock[i], NULL);
    const char *dir = getenv("ROOKERY_POWERLOSS_DIR"), *trace = getenv("ROOKERY_POWERLOSS_TRACE");
    if (!dir || !trace || dir[0] != '/' || strlen(dir) >= sizeof root) return;
    strcpy(root, dir); root_len = strlen(root);
    while (root_len > 1 && root[root_len - 1] == '/') root[--root_len] = 0;
    int fd = syscall(SYS_openat, AT_FDCWD, trace, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0) abort();
    /* Out of the way of code that expects low numbers. */
    trace_fd = syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 1000);
    if (trace_fd < 0) trace_fd = fd; else syscall(SYS_close, fd);
}

/* Makes the path absolute, without double slashes and dots; 0 if it is not below the folder. */
static int ours(int dirfd, const char *path, char out[PATH_MAX]) {
    if (trace_fd < 0 || !path) return 0;
    char whole[2 * PATH_MAX]; size_t n = 0;
    if (path[0] != '/') {
        if (dirfd == AT_FDCWD) { if (!getcwd(whole, PATH_MAX)) return 0; n = strlen(whole); }
        else { char link[64]; snprintf(link, sizeof link, "/proc/self/fd/%d", dirfd);
            ssize_t got = readlink(link, whole, PATH_MAX - 1); if (got <= 0) return 0; n = got; }
        whole[n++] = '/';
    }
    if (strlen(path) >= PATH_MAX) return 0;
    strcpy(whole + n, path);
    size_t o = 0; int up = 0;
    for (char *at = whole; *at;) {
        while (*at == '/') at++;
        size_t part = strcspn(at, "/");
        if (part == 0) break;
        if (part == 2 && !memcmp(at, "..", 2)) up = 1;
        if (!(part == 1 && *at == '.')) {
            if (o + part + 2 > PATH_MAX) return 0;
            out[o++] = '/'; memcpy(out + o, at, part); o += part;
        }
        at += part;
    }
    out[o] = 0;
    if (strncmp(out, root, root_len) || (out[root_len] && out[root_len] != '/')) return 0;
    if (up) unsupported("a path with ..");
    memmove(out, out + root_len, o - root_len + 1);
    return 1;
}
static int tracked(int fd) { return trace_fd >= 0 && fd >= 0 && fd < FDS && fds[fd].tracked; }

static void track(int fd, int flags) {
    struct stat st;
    if (fd >= FDS) { unsupported("a descriptor over 65535"); return; }
    if (fstat(fd, &st)) return;
    fds[fd].ino = st.st_ino; fds[fd].append = !!(flags & O_APPEND); fds[fd].tracked = 1;
}

static int open_at(int dirfd, const char *path, int flags, mode_t mode) {
    char p[PATH_MAX];
    if (!ours(dirfd, path, p)) return syscall(SYS_openat, dirfd, path, flags, mode);
    if ((flags & O_TMPFILE) == O_TMPFILE) {
        // A file that never gets a name is gone after a loss of power.
        if (flags & O_EXCL) return syscall(SYS_openat, dirfd, path, flags, mode);
        errno = EOPNOTSUPP; return -1;
    }
    if (flags & (O_SYNC | O_DSYNC)) unsupported("O_SYNC");
    pthread_mutex_lock(&names_lock);
    uint64_t s = begin(OPEN, -1, flags, p, NULL);
    int fd = syscall(SYS_openat, dirfd, path, flags, mode);
    if (fd >= 0) track(fd, flags);
    end(s, fd);
    pthread_mutex_unlock(&names_lock);
    return fd;
}
#define MODE(flags) mode_t mode = 0; \
    if ((flags) & (O_CREAT | __O_TMPFILE)) { va_list ap; va_start(ap, flags); mode = va_arg(ap, int); va_end(ap); }
int open(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags | O_LARGEFILE, mode); }
int openat(int d, const char *path, int flags, ...) { MODE(flags) return open_at(d, path, flags, mode); }
int openat64(int d, const char *path, int flags, ...) { MODE(flags) return open_at(d, path, flags | O_LARGEFILE, mode); }
int creat(const char *path, mode_t mode) { return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

int close(int fd) {
    if (fd == trace_fd && fd >= 0) { errno = EBADF; return -1; }
    if (tracked(fd)) { begin(CLOSE, fd, 0, NULL, NULL); fds[fd].tracked = 0; }
    return syscall(SYS_close, fd);
}
int close_range(unsigned first, unsigned last, int flags) { (void)first; (void)last; (void)flags; errno = ENOSYS; return -1; }

static void copied(int from, int to) {
    if (to < 0 || from == to) return;
    if (tracked(to)) begin(CLOSE, to, 0, NULL, NULL);
    if (to < FDS) fds[to].tracked = 0;
    if (tracked(from)) {
        if (to >= FDS) { unsupported("a descriptor over 65535"); return; }
        fds[to] = fds[from]; begin(DUP, from, to, NULL, NULL);
    }
}
int dup(int fd) { int got = syscall(SYS_dup, fd); copied(fd, got); return got; }
int dup2(int fd, int to) { REAL(int, dup2, int, int) int got = real_dup2(fd, to); copied(fd, got); return got; }
int dup3(int fd, int to, int flags) { int got = syscall(SYS_dup3, fd, to, flags); copied(fd, got); return got; }
static int control(int fd, int op, long arg) {
    int got = syscall(SYS_fcntl, fd, op, arg);
    if (op == F_DUPFD || op == F_DUPFD_CLOEXEC) copied(fd, got);
    if (op == F_SETFL && !got && tracked(fd)) fds[fd].append = !!(arg & O_APPEND);
    return got;
}
int fcntl(int fd, int op, ...) { va_list ap; va_start(ap, op); long arg = va_arg(ap, long); va_end(ap); return control(fd, op, arg); }
int fcntl64(int fd, int op, ...) { va_list ap; va_start(ap, op); long arg = va_arg(ap, long); va_end(ap); return control(fd, op, arg); }

/* offset < 0: at the descriptor's own position. */
static ssize_t write_all(int fd, const struct iovec *iov, int count, off64_t offset) {
    pthread_mutex_t *lock = &write_lock[fds[fd].ino % STRIPES];
    pthread_mutex_lock(lock);
    off64_t at = offset; struct stat st;
    if (fds[fd].append) at = fstat(fd, &st) ? 0 : st.st_size;
    else if (offset < 0) at = lseek64(fd, 0, SEEK_CUR);
    uint64_t s = put(WRITE, fd, at, 0, NULL, NULL, iov, count, SIZE_MAX);
    ssize_t n = offset < 0 ? syscall(SYS_writev, fd, iov, (long)count)
                           : syscall(SYS_pwritev, fd, iov, (long)count, (long)offset, 0L);
    end(s, n < 0 ? -1 : n);
    pthread_mutex_unlock(lock);
    return n;
}
ssize_t write(int fd, const void *data, size_t n) {
    if (!tracked(fd)) return syscall(SYS_write, fd, data, n);
    struct iovec one = { (void *)data, n }; return write_all(fd, &one, 1, -1);
}
ssize_t writev(int fd, const struct iovec *iov, int count) {
    return tracked(fd) ? write_all(fd, iov, count, -1) : syscall(SYS_writev, fd, iov, (long)count); }
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) {
    if (!tracked(fd)) return syscall(SYS_pwrite64, fd, data, n, at);
    struct iovec one = { (void *)data, n }; return write_all(fd, &one, 1, at);
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) { return pwrite64(fd, data, n, at); }
ssize_t pwritev64(int fd, const struct iovec *iov, int count, off64_t at) {
    return tracked(fd) ? write_all(fd, iov, count, at) : syscall(SYS_pwritev, fd, iov, (long)count, (long)at, 0L); }
ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t at) { return pwritev64(fd, iov, count, at); }
ssize_t pwritev2(int fd, const struct iovec *iov, int count, off_t at, int flags) {
    if (!tracked(fd)) return syscall(SYS_pwritev2, fd, iov, (long)count, (long)at, 0L, flags);
    if (flags) { errno = EOPNOTSUPP; return -1; }
    return write_all(fd, iov, count, at);
}
ssize_t pwritev64v2(int fd, const struct iovec *iov, int count, off64_t at, int flags) { return pwritev2(fd, iov, count, at, flags); }

static int set_length(int fd, off64_t length) {
    if (!tracked(fd)) return syscall(SYS_ftruncate, fd, length);
    uint64_t s = begin(SETLEN, fd, length, NULL, NULL);
    int got = syscall(SYS_ftruncate, fd, length);
    end(s, got); return got;
}
int ftruncate(int fd, off_t length) { return set_length(fd, length); }
int ftruncate64(int fd, off64_t length) { return set_length(fd, length); }
int truncate(const char *path, off_t length) {
    char p[PATH_MAX]; if (ours(AT_FDCWD, path, p)) unsupported("truncate by path");
    return syscall(SYS_truncate, path, length); }
int truncate64(const char *path, off64_t length) { return truncate(path, length); }
static int reserve(int fd, int mode, off64_t at, off64_t length) {
    // With its size kept, nothing that can be read changes.
    if (!tracked(fd) || mode == FALLOC_FL_KEEP_SIZE) return syscall(SYS_fallocate, fd, mode, at, length);
    if (mode != 0) { errno = EOPNOTSUPP; return -1; }
    uint64_t s = begin(EXTEND, fd, at + length, NULL, NULL);
    int got = syscall(SYS_fallocate, fd, mode, at, length);
    end(s, got); return got;
}
int fallocate(int fd, int mode, off_t at, off_t n) { return reserve(fd, mode, at, n); }
int fallocate64(int fd, int mode, off64_t at, off64_t n) { return reserve(fd, mode, at, n); }
int posix_fallocate(int fd, off_t at, off_t n) { return reserve(fd, 0, at, n) ? errno : 0; }
int posix_fallocate64(int fd, off64_t at, off64_t n) { return reserve(fd, 0, at, n) ? errno : 0; }

static int synced(int fd, long call, enum kind kind) {
    if (!tracked(fd)) return syscall(call, fd);
    uint64_t s = begin(kind, fd, call == SYS_fdatasync, NULL, NULL);
    int got = syscall(call, fd);
    end(s, got); return got;
}
int fsync(int fd) { return synced(fd, SYS_fsync, SYNC); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync, SYNC); }
int syncfs(int fd) { return synced(fd, SYS_syncfs, SYNCALL); }
void sync(void) {
    uint64_t s = trace_fd >= 0 ? begin(SYNCALL, -1, 0, NULL, NULL) : 0;
    syscall(SYS_sync);
    if (s) end(s, 0);
}

static int two_names(enum kind kind, int d1, const char *from, int d2, const char *to, unsigned flags) {
    char p1[PATH_MAX], p2[PATH_MAX];
    int here = ours(d1, from, p1), there = ours(d2, to, p2);
    long call = kind == RENAME ? SYS_renameat2 : SYS_linkat;
    if (here != there) unsupported("a name moved into or out of the folder");
    if (!here || !there) return syscall(call, d1, from, d2, to, flags);
    /* An exchange or a whiteout is more than the reader knows; no-replace is a plain rename when it works. */
    if (kind == RENAME && (flags & ~1u)) { errno = EINVAL; return -1; }
    pthread_mutex_lock(&names_lock);
    uint64_t s = begin(kind, -1, 0, p1, p2);
    int got = syscall(call, d1, from, d2, to, flags);
    end(s, got);
    pthread_mutex_unlock(&names_lock);
    return got;
}
int rename(const char *a, const char *b) { return two_names(RENAME, AT_FDCWD, a, AT_FDCWD, b, 0); }
int renameat(int d1, const char *a, int d2, const char *b) { return two_names(RENAME, d1, a, d2, b, 0); }
int renameat2(int d1, const char *a, int d2, const char *b, unsigned flags) { return two_names(RENAME, d1, a, d2, b, flags); }
int link(const char *a, const char *b) { return two_names(LINK, AT_FDCWD, a, AT_FDCWD, b, 0); }
int linkat(int d1, const char *a, int d2, const char *b, int flags) { return two_names(LINK, d1, a, d2, b, flags); }
int symlinkat(const char *to, int d, const char *path) {
    char p[PATH_MAX]; if (ours(d, path, p)) unsupported("a symbolic link");
    return syscall(SYS_symlinkat, to, d, path); }
int symlink(const char *to, const char *path) { return symlinkat(to, AT_FDCWD, path); }

static int one_name(enum kind kind, int d, const char *path, long call, long arg) {
    char p[PATH_MAX];
    if (!ours(d, path, p)) return syscall(call, d, path, arg);
    pthread_mutex_lock(&names_lock);
    uint64_t s = begin(kind, -1, 0, p, NULL);
    int got = syscall(call, d, path, arg);
    end(s, got);
    pthread_mutex_unlock(&names_lock);
    return got;
}
int unlinkat(int d, const char *path, int flags) {
    return one_name(flags & AT_REMOVEDIR ? RMDIR : UNLINK, d, path, SYS_unlinkat, flags); }
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int mkdirat(int d, const char *path, mode_t mode) { return one_name(MKDIR, d, path, SYS_mkdirat, mode); }
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

/* Octets that would reach a file without a write: refused, and callers fall back to writes. */
ssize_t copy_file_range(int in, off64_t *a, int out, off64_t *b, size_t n, unsigned flags) {
    if (tracked(out)) { errno = EXDEV; return -1; }
    return syscall(SYS_copy_file_range, in, a, out, b, n, flags); }
ssize_t sendfile64(int out, int in, off64_t *at, size_t n) {
    if (tracked(out)) { errno = EINVAL; return -1; }
    return syscall(SYS_sendfile, out, in, at, n); }
ssize_t sendfile(int out, int in, off_t *at, size_t n) { return sendfile64(out, in, (off64_t *)at, n); }
ssize_t splice(int in, off64_t *a, int out, off64_t *b, size_t n, unsigned flags) {
    if (tracked(out)) { errno = EINVAL; return -1; }
    return syscall(SYS_splice, in, a, out, b, n, flags); }
void *mmap64(void *at, size_t n, int prot, int flags, int fd, off64_t offset) {
    if (fd >= 0 && tracked(fd) && (flags & MAP_SHARED) && (prot & PROT_WRITE)) unsupported("a shared writable mapping");
    return (void *)syscall(SYS_mmap, at, n, prot, flags, fd, offset); }
void *mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset) { return mmap64(at, n, prot, flags, fd, offset); }
