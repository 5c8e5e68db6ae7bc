/* Hold slow clients at one HTTP server on loopback, and see how it answers the others.

       slow PORT CLIENTS SECONDS FILE LARGE PACE

   CLIENTS slow ones come, FILLING at a time, and stay. One in READERS asks for LARGE and
   reads SIP bytes of it a second. The others are senders: each asks for FILE and gets it,
   which shows that the server has it, and then sends a second request, a byte a second.

   When all are there, one that is not slow connects every PACE microseconds, however the
   last one does, asks for FILE and leaves. From its connect to the last byte of its answer
   is what the figures tell. After SECONDS the senders send the rest, and each gets its answer
   too; the readers leave.

   Every byte that comes is compared. An answer that is wrong, and a slow client that did not
   get in, was sent away or got no answer at the end, is a failure, and the run ends after
   SECONDS + 3 PATIENCE at the latest. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

#include "figures.h"
#include "http.h"

#define FILLING 64
#define QUICK 128   /* those that are not slow, at once at most */
#define READERS 10
#define SIP 4096
#define TURNS 100   /* a second; in each of them it is the turn of one slow client in TURNS */

enum kind { QUICK_ONE, SENDER, READER };

struct client {
    int fd;              /* -1: it is not there */
    enum kind kind;
    int is_held;         /* a slow one that the server has */
    const struct file *file;
    size_t allowed, sent; /* bytes of its requests */
    size_t appetite;     /* bytes that it will read */
    uint64_t began;
    struct answer answer;
};

static uint16_t port;
static int poller, active, quick, filling, finishing;
static uint64_t held, lost;
static struct file small, large;
static char incoming[65536];

static void leave(struct client *c) {
    close(c->fd);
    c->fd = -1;
    active--;
    quick -= c->kind == QUICK_ONE;
}

static void fail(struct client *c, enum failure kind) {
    failed[kind]++;
    if (c->kind != QUICK_ONE && !c->is_held) filling--;
    lost += c->kind != QUICK_ONE;
    leave(c);
}

static void start(struct client *c, enum kind kind) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if ((c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)) < 0)
        err(71, "socket");
    active++;
    c->kind = kind;
    c->file = kind == READER ? &large : &small;
    c->allowed = c->file->asked;
    c->appetite = kind == READER ? SIP : SIZE_MAX;
    c->sent = c->is_held = 0;
    c->began = now();
    await_answer(&c->answer);
    quick += kind == QUICK_ONE;
    filling += kind != QUICK_ONE;
    struct epoll_event wanted = {EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, {.ptr = c}};
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS)
        fail(c, errno == ECONNREFUSED ? REFUSED : RESET);
    else if (epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &wanted) < 0) err(71, "epoll_ctl");
}

static void hold(struct client *c) {
    if (c->is_held) return;
    c->is_held = 1;
    filling--;
    held++;
}

/* Its answer is there; 0: the client is done with. */
static int at_whole(struct client *c) {
    if (c->kind == QUICK_ONE) good(c->began);
    if (c->kind == QUICK_ONE || c->sent > c->file->asked) return leave(c), 0;
    hold(c);
    await_answer(&c->answer);
    return 1;
}

static int take(struct client *c, size_t count) {
    enum said said = take_answer(&c->answer, c->file, incoming, count);
    c->appetite -= count;
    /* A sender's second answer has nothing to say before the request has ended. */
    if (said == BAD || (c->is_held && c->kind == SENDER && c->sent < 2 * c->file->asked))
        return fail(c, WRONG), 0;
    if (c->kind == READER) hold(c);
    return said == MORE ? 1 : at_whole(c);
}

static void advance(struct client *c) {
    for (int moved = 1; moved;) {
        moved = 0;
        if (c->sent < c->allowed) {
            size_t at = c->sent % c->file->asked, left = c->file->asked - at;
            if (left > c->allowed - c->sent) left = c->allowed - c->sent;
            ssize_t n = send(c->fd, c->file->request + at, left, MSG_NOSIGNAL);
            if (n < 0 && errno != EAGAIN) return fail(c, errno == ECONNREFUSED ? REFUSED : RESET);
            if (n > 0) c->sent += n, moved = 1;
        }
        if (c->sent && c->appetite) {
            size_t room = c->appetite < sizeof incoming ? c->appetite : sizeof incoming;
            ssize_t n = recv(c->fd, incoming, room, 0);
            if (n < 0 && errno != EAGAIN) return fail(c, RESET);
            if (n == 0) return fail(c, EARLY);
            if (n > 0) {
                if (!take(c, n)) return;
                moved = 1;
            }
        }
    }
}

/* A slow client's turn: one byte more, or a sip. */
static void step(struct client *c) {
    if (!c->is_held || finishing) return;
    if (c->kind == READER) c->appetite = SIP;
    else if (c->allowed < 2 * c->file->asked - 1) c->allowed++;
    advance(c);
}

static void finish(struct client *slow, int count) {
    finishing = 1;
    for (struct client *c = slow; c < slow + count; c++) {
        if (c->fd < 0) continue;
        if (c->kind == READER) {
            leave(c);
            continue;
        }
        c->allowed = 2 * c->file->asked;
        c->began = now();
        advance(c);
    }
}

static void sweep(struct client *clients, int count) {
    uint64_t at = now();
    for (struct client *c = clients; c < clients + count; c++)
        if (c->fd >= 0 && (!c->is_held || finishing) && at > c->began + PATIENCE) fail(c, LATE);
}

static int start_timer(uint64_t step) {
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct timespec each = {step / SECOND, step % SECOND};
    timerfd_settime(timer, 0, &(struct itimerspec){each, each}, NULL);
    return timer;
}

static uint64_t due(int timer) {
    uint64_t count = 0;
    if (read(timer, &count, sizeof count) < 0 && errno != EAGAIN) err(71, "timerfd");
    return count;
}

static void start_due(struct client *room, uint64_t count) {
    for (struct client *c = room; count && c < room + QUICK; c++)
        if (c->fd < 0) start(c, QUICK_ONE), count--;
    skipped += count;
}

/* `clients`: the slow ones, and behind them room for those that are not. */
static void run(struct client *clients, int count, double seconds, uint64_t pace) {
    int turns = start_timer(SECOND / TURNS), paced = -1, started = 0, turn = 0;
    struct epoll_event wanted = {EPOLLIN, {.ptr = &turns}}, events[256];
    uint64_t patience = now() + 2 * PATIENCE;
    epoll_ctl(poller, EPOLL_CTL_ADD, turns, &wanted);
    while (active || !finishing) {
        while (started < count && filling < FILLING)
            start(clients + started, started % READERS ? SENDER : READER), started++;
        if (started < count && now() >= patience) {
            failed[LATE] += count - started;
            lost += count - started;
            started = count;
        }
        if (paced < 0 && held + lost >= (uint64_t)count) {
            until = now() + (uint64_t)(seconds * SECOND);
            paced = start_timer(pace);
            wanted.data.ptr = &paced;
            epoll_ctl(poller, EPOLL_CTL_ADD, paced, &wanted);
        }
        /* The slow ones' rush is not to hold up the last of those that are measured. */
        if (paced >= 0 && !finishing && now() >= until && !quick) finish(clients, count);
        int ready = epoll_wait(poller, events, 256, 100);
        if (ready < 0 && errno != EINTR) err(71, "epoll_wait");
        for (int i = 0; i < ready; i++) {
            struct client *c = events[i].data.ptr;
            if ((void *)c == &turns) {
                for (uint64_t left = due(turns); left; left--, turn = (turn + 1) % TURNS)
                    for (int own = turn; own < count; own += TURNS)
                        if (clients[own].fd >= 0) step(clients + own);
                if (turn % (TURNS / 10) == 0) sweep(clients, count + QUICK);
            } else if ((void *)c == &paced) {
                uint64_t owed = due(paced);
                if (now() < until) start_due(clients + count, owed);
            } else if (c->fd >= 0) advance(c);
        }
    }
}

int main(int argc, char **argv) {
    if (argc != 7) errx(64, "usage: slow PORT CLIENTS SECONDS FILE LARGE PACE");
    port = atoi(argv[1]);
    int count = atoi(argv[2]);
    double seconds = atof(argv[3]);
    read_file(&small, argv[4], NULL, "");
    read_file(&large, argv[5], NULL, "");
    struct rlimit most;
    getrlimit(RLIMIT_NOFILE, &most);
    most.rlim_cur = most.rlim_max;
    setrlimit(RLIMIT_NOFILE, &most);
    struct client *clients = calloc(count + QUICK, sizeof *clients);
    if (!clients) err(71, "memory");
    for (int i = 0; i < count + QUICK; i++) clients[i].fd = -1;
    poller = epoll_create1(EPOLL_CLOEXEC);
    until = UINT64_MAX;
    run(clients, count, seconds, strtoull(argv[6], NULL, 10) * 1000);
    char more[64];
    snprintf(more, sizeof more, "\"held\": %ju, ", (uintmax_t)held);
    print_figures(seconds, more);
}
