/* The least a superserver can do: accept, vfork, dup2, exec; one process, one user.

       limit PORT PROGRAM [ARGUMENT ...]

   It becomes nobody once, after it listens; it has no limits, no log, no environment and
   no second service. What it reaches is what the kernel charges for a process a connection. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <grp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc < 3) errx(64, "usage: limit PORT PROGRAM [ARGUMENT ...]");
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int yes = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&here, sizeof here) < 0) err(69, "bind %s", argv[1]);
    if (listen(listener, 1024) < 0) err(69, "listen %s", argv[1]);
    if (setgroups(0, NULL) < 0 || setgid(65534) < 0 || setuid(65534) < 0) err(77, "nobody");
    for (;;) {
        int conn = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (conn < 0) continue;  /* the peer has left again */
        pid_t child = vfork();
        if (child == 0) {
            dup2(conn, 0);
            dup2(conn, 1);
            execve(argv[2], argv + 2, (char *[]){NULL});
            _exit(126);
        }
        close(conn);  /* after a failed vfork too: the load counts it as a failure */
        while (waitpid(-1, NULL, WNOHANG) > 0) continue;
    }
}
