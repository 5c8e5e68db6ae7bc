/* Load one server on loopback, check every byte that comes back, print the figures as JSON.

       load MODE PORT CLIENTS SECONDS [ARGUMENT [ORIGIN]]

   MODE     one connection, or for keep one request, for stream one message
   cat      connect, send 64 bytes, shut down for writing, read to the end
   echo     connect, send 64 bytes, read 64 bytes, close
   http     connect, ask for ARGUMENT's file name, read to the end, compare with ARGUMENT
   keep     CLIENTS connections that stay, ARGUMENT asked for on each again and again
   tunnel   as keep, on connections that CONNECT has made tunnels to ORIGIN (host:port)
   stream   CLIENTS connections that stay; messages of 64 KiB, ARGUMENT (1 or 2) on their way
   paced    as echo, one connection every ARGUMENT microseconds, however the last one does

   With ORIGIN http and keep speak to a proxy, in absolute form. Then keep begins anew where an
   answer says `Connection: close`, and where a connection ends without that between two
   answers it asks again, as every client does; the time goes on meanwhile. Without ORIGIN an
   end is a failure.

   One message or two, because neither suits all. After one alone a server that writes in
   small pieces waits for the kernel: Nagle's algorithm keeps its last piece until a delayed
   ACK, 40 ms later. Two together are more than a pipe holds, and a server that echoes
   through one with a large buffer stands still.

   One thread, one epoll, edge-triggered: one epoll_ctl a connection. All that is sent is a
   piece of one block of noise, a different piece for each connection and message: an answer
   that belongs to another one is a wrong answer. What is not the expected answer to the last
   byte is a failure of a named kind, and no figure counts it. A connection that takes more
   than PATIENCE is one too, so a run ends after SECONDS + PATIENCE at the latest. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

#include "figures.h"
#include "http.h"

#define SHORT 64
#define MESSAGE 65536
#define SOURCES 16   /* 127.0.0.1 and on: each has its own 28 thousand ports in TIME_WAIT */
#define MAX_DEPTH 2  /* stream: messages of one connection on their way */
#define NOISE 65521  /* the number of different pieces; a prime */

enum mode { CAT, ECHO, HTTP, KEEP, TUNNEL, STREAM, PACED };
static const char *const MODES[] = {"cat", "echo", "http", "keep", "tunnel", "stream", "paced"};

struct client {
    int fd;                /* -1: idle */
    int ended;             /* shut down for writing */
    uint64_t first;        /* its first message's number: which pieces of noise are its own */
    size_t length;         /* how much may be sent so far */
    size_t sent, got;
    uint64_t began[MAX_DEPTH]; /* of the messages on their way; others have one: the connection */
    int opening;           /* tunnel: it is none yet */
    int kept;              /* http, keep, tunnel: answers on this connection */
    struct answer answer;  /* http, keep, tunnel */
};

static enum mode mode;
static uint16_t port;
static int poller, active;
static uint64_t number;
static char noise[NOISE + MESSAGE], incoming[4 * MESSAGE];
static struct file file;  /* http, keep, tunnel */
static const char *origin; /* NULL: it is the server itself */
static char opening[512]; /* what asks for a tunnel */
static size_t size;       /* of a message, or a request */
static unsigned depth = 1;

static int is_http(void) {
    return mode == HTTP || mode == KEEP || mode == TUNNEL;
}

static void leave(struct client *c) {
    close(c->fd);
    c->fd = -1;
    active--;
}

static void fail(struct client *c, enum failure kind) {
    failed[kind]++;
    leave(c);
}

/* A client stays idle after a failure until the next sweep, so that a server which
   refuses everything is not called as fast as it can refuse. */
static void fail_errno(struct client *c) {
    fail(c, errno == ECONNREFUSED ? REFUSED : RESET);
}

/* When the oldest message on its way was let go. */
static uint64_t *since(struct client *c) {
    return &c->began[c->got / size % depth];
}

/* Let one more message go. */
static void add_message(struct client *c) {
    c->began[c->length / size % depth] = now();
    c->length += size;
}

/* What is sent from position `at` on, and as an echo comes back; `left`: how much of it. */
static const char *piece(struct client *c, size_t at, size_t *left) {
    if (c->opening) return *left = c->length - at, opening + at;
    *left = size - at % size;
    if (is_http()) return file.request + at % size;
    return noise + (c->first + at / size) % NOISE + at % size;
}

/* 127.0.0.1 as long as it has a port, for that one has a name in /etc/hosts: a server that
   wants to know the name of its peer asks the DNS for any other, and waits for that. */
static void connect_from(struct client *c, int source) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in from = {.sin_family = AF_INET};
    int yes = 1;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + source);
    if ((c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)) < 0)
        err(71, "socket");
    active++;
    /* The port is chosen by connect, which knows the whole pair of addresses. */
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
    if (bind(c->fd, (struct sockaddr *)&from, sizeof from) < 0) err(71, "bind");
    if (!connect(c->fd, (struct sockaddr *)&to, sizeof to) || errno == EINPROGRESS) {
        struct epoll_event wanted = {EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, {.ptr = c}};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &wanted) < 0) err(71, "epoll_ctl");
        elsewhere += source > 0;
    } else if (errno == EADDRNOTAVAIL && source + 1 < SOURCES) {
        leave(c);
        connect_from(c, source + 1);
    } else fail_errno(c);
}

static void start(struct client *c) {
    c->ended = 0;
    c->first = number++;
    c->length = c->sent = c->got = 0;
    await_answer(&c->answer);
    c->kept = 0;
    c->opening = mode == TUNNEL;
    if (c->opening) {
        c->began[0] = now();
        c->length = strlen(opening);
    } else for (unsigned i = 0; i < depth; i++) add_message(c);
    connect_from(c, 0);
}

static void start_again(struct client *c) {
    if (mode != PACED && now() < until) start(c);
}

/* A kept connection may end while the next request is on its way to it, which then was not
   heard (RFC 9112, 9.3.1 and 9.6). 0: that is not what happened. */
static int ask_again(struct client *c) {
    if (mode != KEEP || !origin || !c->kept || c->answer.head) return 0;
    uint64_t began = c->began[0];
    again++;
    leave(c);
    start_again(c);
    if (c->fd >= 0) c->began[0] = began;
    return 1;
}

static void at_error(struct client *c) {
    if (!ask_again(c)) fail_errno(c);
}

/* The peer has said all: was it what we wait for? */
static void at_end(struct client *c) {
    if (mode == STREAM && c->ended) return leave(c);
    if (ask_again(c)) return;
    int whole = c->answer.has_head && c->answer.body == file.length;
    if (mode == KEEP || mode == TUNNEL || (mode == HTTP ? !whole : c->got < c->length)) return fail(c, EARLY);
    good(*since(c));
    leave(c);
    start_again(c);
}

/* stream: one more is there. The end comes when all that were let go are. */
static void next_message(struct client *c, uint64_t began) {
    good(began);
    if (now() < until) add_message(c);
    else if (c->got == c->length) {
        shutdown(c->fd, SHUT_WR);
        c->ended = 1;
        *since(c) = now();
    }
}

/* tunnel: as take. Any 2xx makes it one (RFC 9110, 9.3.6), and the first word is ours. */
static int take_opening(struct client *c, size_t count) {
    const char *data = incoming;
    enum said said = take_head(&c->answer, &data, &count);
    if (said == MORE) return 1;
    const char *head = c->answer.text;
    if (said == BAD || count || strncmp(head, "HTTP/1.", 7) || strncmp(head + 8, " 2", 2))
        return fail(c, WRONG), 0;
    c->opening = 0;
    c->length = c->sent = c->got = 0;
    await_answer(&c->answer);
    add_message(c);
    return 1;
}

/* http, keep, tunnel: as take. */
static int take_http(struct client *c, size_t count) {
    if (c->opening) return take_opening(c, count);
    enum said said = take_answer(&c->answer, &file, incoming, count);
    c->got += count;
    if (said == BAD) return fail(c, WRONG), 0;
    if (mode == HTTP || said == MORE) return 1;
    good(*since(c));
    c->kept++;
    if (now() >= until) return leave(c), 0;
    if (origin && c->answer.closes) return leave(c), start_again(c), 0;
    await_answer(&c->answer);
    add_message(c);
    return 1;
}

/* Take in `count` bytes; 0: the client is done with, or begins anew. */
static int take(struct client *c, size_t count) {
    if (is_http()) return take_http(c, count);
    /* More than was sent so far is wrong as well, even if the bytes were right. */
    if (c->got + count > c->sent) return fail(c, WRONG), 0;
    for (size_t at = 0, left; at < count; at += left) {
        const char *wanted = piece(c, c->got, &left);
        uint64_t began = *since(c);
        if (left > count - at) left = count - at;
        if (memcmp(incoming + at, wanted, left)) return fail(c, WRONG), 0;
        c->got += left;
        if (mode == STREAM && c->got % size == 0) next_message(c, began);
    }
    if (c->got < c->length || mode == CAT || mode == STREAM) return 1;
    good(*since(c));
    leave(c);
    start_again(c);
    return 0;
}

static void advance(struct client *c) {
    for (;;) {
        int moved = 0;
        if (c->sent < c->length) {
            size_t left;
            const char *out = piece(c, c->sent, &left);
            ssize_t n = send(c->fd, out, left, MSG_NOSIGNAL);
            if (n < 0 && errno != EAGAIN) return at_error(c);
            if (n > 0) c->sent += n, moved = 1;
            if (c->sent == c->length && mode == CAT) shutdown(c->fd, SHUT_WR), c->ended = 1;
        }
        if (c->sent || c->ended) {
            ssize_t n = recv(c->fd, incoming, sizeof incoming, 0);
            if (n < 0 && errno != EAGAIN) return at_error(c);
            if (n == 0) return at_end(c);
            if (n > 0) {
                if (!take(c, n)) return;
                moved = 1;
            }
        }
        if (!moved) return;  /* both ways say EAGAIN, so the edge will come */
    }
}

static void sweep(struct client *clients, int count) {
    uint64_t at = now();
    for (struct client *c = clients; c < clients + count; c++) {
        if (c->fd >= 0 && at > *since(c) + PATIENCE) fail(c, LATE);
        else if (c->fd < 0) start_again(c);
    }
}

/* paced: as many as the clock asks for; `skipped` counts what found no free client. */
static void start_due(struct client *clients, int count, int timer) {
    uint64_t due = 0;
    if (read(timer, &due, sizeof due) < 0 && errno != EAGAIN) err(71, "timerfd");
    if (now() >= until) return;
    for (struct client *c = clients; due && c < clients + count; c++)
        if (c->fd < 0) start(c), due--;
    skipped += due;
}

static void run(struct client *clients, int count, uint64_t pace) {
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct timespec step = {pace / 1000000, pace % 1000000 * 1000};
    struct epoll_event wanted = {EPOLLIN, {.ptr = NULL}}, events[256];
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &wanted);
    timerfd_settime(timer, 0, &(struct itimerspec){step, step}, NULL);
    uint64_t next_sweep = 0;
    while (active || now() < until) {
        if (now() >= next_sweep) {
            sweep(clients, count);
            next_sweep = now() + SECOND / 10;
        }
        int ready = epoll_wait(poller, events, 256, 100);
        if (ready < 0 && errno != EINTR) err(71, "epoll_wait");
        for (int i = 0; i < ready; i++) {
            struct client *c = events[i].data.ptr;
            if (!c) start_due(clients, count, timer);
            else if (c->fd >= 0) advance(c);
        }
    }
}

int main(int argc, char **argv) {
    if (argc < 5) errx(64, "usage: load MODE PORT CLIENTS SECONDS [ARGUMENT [ORIGIN]]");
    for (mode = CAT; strcmp(argv[1], MODES[mode]); mode++)
        if (mode == PACED) errx(64, "%s: no mode; see load.c", argv[1]);
    if (mode >= HTTP && argc < 6) errx(64, "%s needs ARGUMENT", argv[1]);
    if (mode == TUNNEL && argc < 7) errx(64, "tunnel needs ORIGIN");
    port = atoi(argv[2]);
    int count = atoi(argv[3]);
    double seconds = atof(argv[4]);
    origin = is_http() && argc > 6 ? argv[6] : NULL;
    if (is_http())
        read_file(&file, argv[5], mode == TUNNEL ? NULL : origin,
                  mode == HTTP ? "Connection: close\r\n" : "");
    snprintf(opening, sizeof opening, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", origin, origin);
    if (mode == STREAM && (depth = atoi(argv[5])) - 1 >= MAX_DEPTH) errx(64, "1 or 2 messages");
    size = is_http() ? file.asked : mode == STREAM ? MESSAGE : SHORT;
    srandom(1);
    for (size_t i = 0; i < sizeof noise; i++) noise[i] = random();
    struct client *clients = calloc(count, sizeof *clients);
    for (int i = 0; i < count; i++) clients[i].fd = -1;
    poller = epoll_create1(EPOLL_CLOEXEC);
    until = now() + (uint64_t)(seconds * SECOND);
    run(clients, count, mode == PACED ? strtoull(argv[5], NULL, 10) : 0);
    print_figures(seconds, "");
}
