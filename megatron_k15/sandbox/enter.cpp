// Outside the jail: join a slot's cgroups, become its unprivileged user (0: stay root, for crun, which
// changes the user itself), and start the jail's maker.
//
//   enter UID STACK_BYTES FILE_BYTES CGROUP_PROCS_FILE... -- COMMAND...
//
// A few milliseconds of Python per run would be half of the time a run may take; hence this program. Whatever fails here
// ends it with code 125 and a line on standard error: the sandbox then knows that no jail was made.
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <grp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

static void require(bool done, const char *what) {
  if (done) return;
  std::fprintf(stderr, "enter: %s: %s\n", what, std::strerror(errno));
  _exit(125);
}

static void limit(int resource, rlim_t value) {
  rlimit limits;
  require(getrlimit(resource, &limits) == 0, "getrlimit");
  // The hard limit can only come down: raising it wants a capability that containers lack.
  if (limits.rlim_max != RLIM_INFINITY && limits.rlim_max < value) value = limits.rlim_max;
  limits.rlim_cur = limits.rlim_max = value;
  require(setrlimit(resource, &limits) == 0, "setrlimit");
}

int main(int count, char **arguments) {
  require(count > 5, "too few arguments");
  const unsigned long uid = std::strtoul(arguments[1], nullptr, 10);
  int next = 4;
  for (; next < count && std::strcmp(arguments[next], "--") != 0; ++next) {
    const int file = open(arguments[next], O_WRONLY | O_CLOEXEC);
    require(file >= 0 && write(file, "0", 1) == 1, arguments[next]);
    close(file);
  }
  require(next + 1 < count, "no command");
  limit(RLIMIT_STACK, std::strtoull(arguments[2], nullptr, 10));
  limit(RLIMIT_FSIZE, std::strtoull(arguments[3], nullptr, 10));
  // One byte, not none: the kernel starts a host's dump handler, as root, for every limit but this one.
  limit(RLIMIT_CORE, 1);
  limit(RLIMIT_NOFILE, 1024);
  limit(RLIMIT_MEMLOCK, 65536);
  limit(RLIMIT_MSGQUEUE, 0);
  if (uid != 0)
    require(setgroups(0, nullptr) == 0 && setresgid(uid, uid, uid) == 0 && setresuid(uid, uid, uid) == 0,
            "becoming the slot's user");
  execv(arguments[next + 1], arguments + next + 1);
  require(false, arguments[next + 1]);
}
