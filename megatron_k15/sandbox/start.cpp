// Inside the jail, its first program: say that the jail stands, and start the program under test.
//
//   start FD COMMAND...
//
// Writes one byte to FD. Without the byte the sandbox knows that the jail was not made, whatever exit code it sees. The
// program gets descriptors 0, 1 and 2 and no other. A command that cannot be started ends with code 127.
//
// It stays as the jail's first process, with the program as its child: the kernel ignores most signals to a first process,
// and a first process has to wait for orphans. The program can neither signal it nor touch its memory.
#include <cstdlib>
#include <linux/close_range.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int wait_for(pid_t program) {
  for (int status;;) {
    const pid_t ended = wait(&status);
    if (ended < 0) return 125;
    if (ended == program) return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  }
}

int main(int count, char **arguments) {
  if (count < 3 || write(std::atoi(arguments[1]), "S", 1) != 1) return 125;
  if (syscall(SYS_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC) != 0) return 125;
  // No other process of the same user may trace it. The program's own exec undoes this for the program.
  if (prctl(PR_SET_DUMPABLE, 0) != 0) return 125;
  const pid_t program = fork();
  if (program < 0) return 125;
  if (program == 0) {
    execv(arguments[2], arguments + 2);
    _exit(127);
  }
  // The output is the program's: its pipes must end when the program has.
  for (int file = 0; file < 3; ++file) close(file);
  return wait_for(program);
}
