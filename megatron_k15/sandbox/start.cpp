// Inside the jail, its first program: say that the jail stands, and become the program under test.
//
//   start FD COMMAND...
//
// Writes one byte to FD. Without the byte the sandbox knows that the jail was not made, whatever exit code it sees. The
// program gets descriptors 0, 1 and 2 and no other. A command that cannot be started ends with code 127.
#include <cstdlib>
#include <linux/close_range.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int count, char **arguments) {
  if (count < 3 || write(std::atoi(arguments[1]), "S", 1) != 1) return 125;
  if (syscall(SYS_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC) != 0) return 125;
  execv(arguments[2], arguments + 2);
  return 127;
}
