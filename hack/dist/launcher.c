/* The launcher: locates the tree that it is part of, and runs Python from it.

   TREE/bin/cri-proxy ARG...    runs  python -I -m cri_proxy ARG...
   TREE/bin/python3 ARG...      runs  python -I ARG...; this is Python's sys.executable, so that
                                workers are started in the same way

   Python is started by the tree's own dynamic loader, only with libraries of the tree: neither the
   node's C library nor its library cache is used. The loader's file is named cri-proxy because ps and
   the kernel's log show that name. /proc/self/exe is free of symbolic links: after an upgrade has moved
   `current`, a running daemon still starts workers of its own version.

   It is not linked with a C library: it uses three system calls, and the initial stack, on which the
   kernel puts the number of arguments, the arguments, a null, the environment, and a null. */

enum { LONGEST = 4096 };

#if defined(__x86_64__)
enum { WRITE = 1, EXECVE = 59, EXIT = 231, READLINKAT = 267 };
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall launch\n");

static long kernel(long number, long a, long b, long c, long d) {
  register long r10 __asm__("r10") = d;
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
                   : "rcx", "r11", "memory");
  return result;
}
#elif defined(__aarch64__)
enum { WRITE = 64, EXECVE = 221, EXIT = 94, READLINKAT = 78 };
__asm__(".globl _start\n_start:\n\tmov x29, #0\n\tmov x30, #0\n\tmov x0, sp\n\tb launch\n");

static long kernel(long number, long a, long b, long c, long d) {
  register long x8 __asm__("x8") = number;
  register long x0 __asm__("x0") = a;
  register long x1 __asm__("x1") = b;
  register long x2 __asm__("x2") = c;
  register long x3 __asm__("x3") = d;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
  return x0;
}
#endif

static char self[LONGEST], loader[LONGEST + 32], libraries[LONGEST + 32], python[LONGEST + 32],
    program[LONGEST + 32];

static char *append(char *end, const char *text) {
  while ((*end = *text++)) end++;
  return end;
}

static void print(const char *text) {
  long length = 0;
  while (text[length]) length++;
  kernel(WRITE, 2, (long)text, length, 0);
}

__attribute__((noreturn)) static void fail(const char *what, const char *why) {
  print("cri-proxy: ");
  print(what);
  print(why);
  for (;;) kernel(EXIT, 127, 0, 0, 0);
}

/* Remove the last component of a path; return it. */
static char *cut(char *path) {
  char *slash = path;
  for (char *each = path; *each; each++)
    if (*each == '/') slash = each;
  *slash = 0;
  return slash + 1;
}

static int is_loaders(const char *variable) {
  return variable[0] == 'L' && variable[1] == 'D' && variable[2] == '_';
}

__attribute__((noreturn, used)) void launch(long *stack) {
  long count = *stack;
  char **arguments = (char **)(stack + 1), **environment = arguments + count + 1;

  long length = kernel(READLINKAT, -100, (long)"/proc/self/exe", (long)self, LONGEST - 1);
  if (length < 0) fail("/proc/self/exe cannot be read", ": mount /proc\n");
  int is_python = cut(self)[0] == 'p';
  cut(self);
  append(append(loader, self), "/libexec/cri-proxy");
  append(append(libraries, self), "/lib");
  append(append(python, self), "/bin/python3");
  append(append(program, self), "/libexec/python");

  char *words[count + 12];
  char **next = words;
  *next++ = "cri-proxy";
  *next++ = "--inhibit-cache";
  *next++ = "--library-path";
  *next++ = libraries;
  *next++ = "--argv0";
  *next++ = python;
  *next++ = program;
  *next++ = "-I";
  if (!is_python) {
    *next++ = "-m";
    *next++ = "cri_proxy";
  }
  for (long each = 1; each < count; each++) *next++ = arguments[each];
  *next = 0;

  char **kept = environment; /* without variables that would make the loader use the node's libraries */
  for (char **each = environment; *each; each++)
    if (!is_loaders(*each)) *kept++ = *each;
  *kept = 0;

  kernel(EXECVE, (long)loader, (long)words, (long)environment, 0);
  fail(loader, ": cannot be started; unpack the tarball again\n");
}
