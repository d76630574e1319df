/* What Android's C library has and glibc lacks, so that the phone's own libraries load on this machine in tests.
 *
 * Built as libc.so, the name those libraries ask for; libm, libdl, liblog and libandroid are links to it. Functions of
 * one name that work differently on Android are renamed in the libraries by relink.py: the last letter becomes Q.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <ftw.h>
#include <libgen.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <unistd.h>

/* Three opaque FILEs of 152 bytes: stdin, stdout, stderr. */
enum { FILE_BYTES = 152 };
char __sF[3 * FILE_BYTES];

static FILE *real(void *file) {
    char *place = file;
    if (place < __sF || place >= __sF + sizeof __sF) return file;
    size_t number = (size_t)(place - __sF) / FILE_BYTES;
    return number == 0 ? stdin : number == 1 ? stdout : stderr;
}

int fflusQ(void *file) { return fflush(file ? real(file) : NULL); }
size_t fwritQ(const void *data, size_t size, size_t count, void *file) { return fwrite(data, size, count, real(file)); }
int fputQ(const char *text, void *file) { return fputs(text, real(file)); }
int vfprintQ(void *file, const char *form, va_list values) { return vfprintf(real(file), form, values); }

int fprintQ(void *file, const char *form, ...) {
    va_list values;
    va_start(values, form);
    int count = vfprintf(real(file), form, values);
    va_end(values);
    return count;
}

/* Android numbers these differently (bits/sysconf.h). */
long sysconQ(int name) {
    switch (name) {
        case 0x06: return sysconf(_SC_CLK_TCK);
        case 0x27:
        case 0x28: return sysconf(_SC_PAGESIZE);
        case 0x60: return sysconf(_SC_NPROCESSORS_CONF);
        case 0x61: return sysconf(_SC_NPROCESSORS_ONLN);
        case 0x62: return sysconf(_SC_PHYS_PAGES);
        case 0x63: return sysconf(_SC_AVPHYS_PAGES);
        default: errno = EINVAL; return -1;
    }
}

/* Android's leaves its argument alone; glibc's writes into it, and onnxruntime passes a path that it goes on using. */
char *dirnamQ(const char *path) {
    static _Thread_local char copy[PATH_MAX];
    snprintf(copy, sizeof copy, "%s", path);
    return dirname(copy);
}

/* The same functions, but today's: a name without a version would bind to the oldest that glibc keeps. */
char *realpatQ(const char *path, char *resolved) { return realpath(path, resolved); }
int nftQ(const char *path, __nftw_func_t visit, int depth, int flags) { return nftw(path, visit, depth, flags); }
int pthread_cond_waiQ(pthread_cond_t *cond, pthread_mutex_t *mutex) { return pthread_cond_wait(cond, mutex); }
int pthread_cond_timedwaiQ(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *until) {
    return pthread_cond_timedwait(cond, mutex, until);
}
int pthread_cond_signaQ(pthread_cond_t *cond) { return pthread_cond_signal(cond); }
int pthread_cond_broadcasQ(pthread_cond_t *cond) { return pthread_cond_broadcast(cond); }
int pthread_cond_destroQ(pthread_cond_t *cond) { return pthread_cond_destroy(cond); }

int *__errno(void) { return &errno; }
char *__gnu_strerror_r(int number, char *text, size_t size) { return strerror_r(number, text, size); }

/* BSD's table of character classes, one place before EOF. */
static char classes[257];
const char *_ctype_ = classes;

__attribute__((constructor)) static void fill_classes(void) {
    for (int c = 0; c < 128; c++) {
        classes[c + 1] = (char)((isupper(c) ? 1 : 0) | (islower(c) ? 2 : 0) | (isdigit(c) ? 4 : 0) |
                                (isspace(c) ? 8 : 0) | (ispunct(c) ? 16 : 0) | (iscntrl(c) ? 32 : 0) |
                                (isxdigit(c) && !isdigit(c) ? 64 : 0) | (c == ' ' ? 128 : 0));
    }
}

int __android_log_vprint(int priority, const char *tag, const char *form, va_list values) {
    if (priority < 5) return 0;
    fprintf(stderr, "[%s] ", tag);
    vfprintf(stderr, form, values);
    fputc('\n', stderr);
    return 1;
}

int __android_log_print(int priority, const char *tag, const char *form, ...) {
    va_list values;
    va_start(values, form);
    int result = __android_log_vprint(priority, tag, form, values);
    va_end(values);
    return result;
}

int __android_log_write(int priority, const char *tag, const char *text) {
    return __android_log_print(priority, tag, "%s", text);
}

void __assert2(const char *file, int line, const char *function, const char *text) {
    fprintf(stderr, "%s:%d %s: %s\n", file, line, function, text);
    abort();
}

void android_set_abort_message(const char *text) { fprintf(stderr, "abort: %s\n", text); }
int __system_property_get(const char *name, char *value) {
    (void)name;
    value[0] = 0;
    return 0;
}

/* Checked versions of functions, whose checks are for the compiler. */
size_t __strlen_chk(const char *text, size_t size) { return (void)size, strlen(text); }
char *__strchr_chk(const char *text, int c, size_t size) { return (void)size, strchr(text, c); }
char *__strncpy_chk2(char *to, const char *from, size_t count, size_t a, size_t b) {
    return (void)a, (void)b, strncpy(to, from, count);
}
int __FD_ISSET_chk(int fd, const fd_set *set, size_t size) { return (void)size, FD_ISSET(fd, set); }
void __FD_SET_chk(int fd, fd_set *set, size_t size) {
    (void)size;
    FD_SET(fd, set);
}
