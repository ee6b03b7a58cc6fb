/* The load: WebSocket clients (RFC 6455) on one epoll loop, cheap enough not to be the bottleneck.
 *
 *     cc -O2 -Wall -Wextra -o load load.c && ./load --port 8080 --path /echo --clients 100 --audience own
 *
 * Several ports, as of a cluster's brokers, are repeated: --port 8080 --port 8090; clients take turns at them.
 *
 * It connects everybody, says so in a line of JSON on stdout, waits for a line on stdin (--hold), lets the clients send,
 * stops, waits for what is still on its way, and prints a second line of JSON.
 *
 * Every message is numbered by its sender. Each client checks that it gets each message of each sender of its audience
 * once and in order. Lost, repeated and foreign messages are counted apart; a run with any of them is worth nothing.
 *
 * Closed loop: a sender sends its next message when its last one has come back. Open loop (--rate): messages leave by a
 * timetable, whatever comes back, and latency counts from the time in the timetable, so that a server that stalls is
 * charged for the messages that had to wait (no coordinated omission).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum audience { OWN, ROOM, ALL };                /* who gets a message: its sender, its room, everybody */
enum dialect { PLAIN, PINGS, SOCKETIO, NATS, SESSIONS };   /* inside the frames; PINGS: control frames alone; SESSIONS: pystrands.v1 */
enum state { CONNECTING, UPGRADING, JOINING, READY, GONE };
enum opcode { TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10 };
enum { UNSEEN = 64,                              /* SESSIONS: private messages until their arrival is told */
       STAMP = 32, MOST_PROCESSES = 16, MOST_PORTS = 16, PORTS_OF_AN_ADDRESS = 10000 };

static struct {
    int ports[MOST_PORTS], port_count, clients, room_size, senders, size, inflight, stalled, window;
    double seconds, warmup, settle, drain, rate;
    bool hold;
    enum audience audience;
    enum dialect dialect;
    const char *path;
    int processes;
    const char *names[MOST_PROCESSES];
    clockid_t clocks[MOST_PROCESSES];
} options = {.clients = 100, .room_size = 1, .senders = 1, .size = 40, .inflight = 64,
             .seconds = 3, .warmup = 1, .settle = 0.5, .drain = 10, .path = ""};

struct client {
    int fd, number;
    enum state state;
    bool stalled, writable_wanted;
    uint32_t sent, unseen;
    char *rest, *out, *stream;      /* bytes of an unfinished frame; bytes not yet written; NATS: of an unfinished line */
    size_t rest_size, out_size, stream_size;
};

static struct client *clients;
static uint32_t *expected;          /* by client and sender's slot in its audience: the number that must come next */
static int epoll_fd, group_size, ready, stalled_gone;
static int *senders, sender_count, next_sender;
static bool sending;
static uint64_t began, ended;       /* of the measured time; nanoseconds */
static struct { uint64_t sent, owed, received, repeated, foreign, closed, refused; } count;

static void die(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, errno ? strerror(errno) : "failed");
    exit(2);
}

static uint64_t clock_ns(clockid_t clock) {
    struct timespec t;
    if (clock_gettime(clock, &t)) die("a process under test has ended");
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

/* ---- Latency: a histogram with 128 steps for each power of two, so within one per cent of the truth. ---- */

enum { STEP_BITS = 7, STEPS = 1 << STEP_BITS };
static uint64_t histogram[64 * STEPS], samples, longest;

static void record(uint64_t ns) {
    int shift = ns < STEPS ? 0 : 63 - __builtin_clzll(ns) - STEP_BITS;
    histogram[(size_t)shift * STEPS + (ns >> shift)]++;
    samples++;
    if (ns > longest) longest = ns;
}

static double percentile(double share) {
    uint64_t wanted = (uint64_t)(share * (double)samples), seen = 0;
    for (size_t i = 0; i < sizeof histogram / sizeof *histogram; i++) {
        seen += histogram[i];
        if (seen > wanted) {
            size_t shift = i < 2 * STEPS ? 0 : i / STEPS - 1;
            double low = (double)((uint64_t)(i - shift * STEPS) << shift);
            double middle = low + (double)((uint64_t)1 << shift) / 2;
            return (middle < (double)longest ? middle : (double)longest) / 1000; /* nothing was longer than that */
        }
    }
    return (double)longest / 1000;
}

/* ---- Writing. ---- */

static void watch(struct client *c) {
    struct epoll_event event = {.data.ptr = c};
    bool reads = !(c->stalled && c->state == READY);
    event.events = (reads ? EPOLLIN : 0) | (c->writable_wanted ? EPOLLOUT : 0);
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event);
}

static void gone(struct client *c) {
    if (c->state == GONE) return;
    if (c->stalled && c->state == READY) stalled_gone++;
    else if (c->state == READY) count.closed++;
    else count.refused++;
    c->state = GONE;
    close(c->fd);
}

static void keep(char **where, size_t *size, const char *data, size_t length) {
    if (length == 0) { free(*where); *where = NULL; *size = 0; return; }
    char *copy = malloc(length);
    if (!copy) die("memory");
    memcpy(copy, data, length);
    free(*where);
    *where = copy;
    *size = length;
}

static void write_bytes(struct client *c, const char *data, size_t length) {
    if (c->state == GONE) return;
    if (c->out_size == 0) {
        ssize_t n = send(c->fd, data, length, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN) { gone(c); return; }
        if (n == (ssize_t)length) return;
        if (n > 0) { data += n; length -= (size_t)n; }
    }
    c->out = realloc(c->out, c->out_size + length);
    if (!c->out) die("memory");
    memcpy(c->out + c->out_size, data, length);
    c->out_size += length;
    if (!c->writable_wanted) { c->writable_wanted = true; watch(c); }
}

static void on_writable(struct client *c) {
    ssize_t n = send(c->fd, c->out, c->out_size, MSG_NOSIGNAL);
    if (n < 0) { if (errno != EAGAIN) gone(c); return; }
    c->out_size -= (size_t)n;
    memmove(c->out, c->out + n, c->out_size);
    if (c->out_size == 0) { c->writable_wanted = false; watch(c); }
}

static void write_frame(struct client *c, enum opcode opcode, const char *payload, size_t length) {
    static uint32_t random = 2463534242u;
    random ^= random << 13; random ^= random >> 17; random ^= random << 5;
    unsigned char frame[8 + length], *at = frame, mask[4];
    memcpy(mask, &random, 4);
    *at++ = 0x80 | opcode;
    if (length < 126) *at++ = 0x80 | (unsigned char)length;
    else { *at++ = 0x80 | 126; *at++ = (unsigned char)(length >> 8); *at++ = (unsigned char)length; }
    memcpy(at, mask, 4);
    at += 4;
    for (size_t i = 0; i < length; i++) at[i] = (unsigned char)payload[i] ^ mask[i & 3];
    write_bytes(c, (char *)frame, (size_t)(at - frame) + length);
}

static void write_hex(char *at, uint64_t value, int digits) {
    for (int i = digits - 1; i >= 0; i--, value >>= 4) at[i] = "0123456789abcdef"[value & 15];
}

static uint64_t read_hex(const char *at, int digits) {
    uint64_t value = 0;
    for (int i = 0; i < digits; i++) value = value << 4 | (uint64_t)((at[i] & 15) + (at[i] >> 6) * 9);
    return value;
}

static int room_of(int client) { return client / options.room_size; }

/* The sender's number, the message's number, when it was due, and x's up to --size. */
static void send_message(int sender, uint64_t due) {
    struct client *c = &clients[sender];
    char text[options.size + 100];
    int before = 0, after = 0;
    if (options.dialect == SOCKETIO) { before = sprintf(text, "42[\"message\",\""); after = 2; }
    if (options.dialect == NATS) { before = sprintf(text, "PUB room.%d %d\r\n", room_of(sender), options.size); after = 2; }
    if (options.dialect == SESSIONS) before = sprintf(text, "{\"k\":%u}\n", c->sent + 1);
    char *payload = text + before;
    memset(payload, 'x', (size_t)options.size);
    write_hex(payload, (uint64_t)sender, 8);
    write_hex(payload + 8, c->sent, 8);
    write_hex(payload + 16, due, 16);
    if (after) memcpy(payload + options.size, options.dialect == NATS ? "\r\n" : "\"]", 2);
    c->sent++;
    count.sent++;
    int group = sender / group_size, last = (group + 1) * group_size;
    int silent = options.clients - options.stalled;
    count.owed += (uint64_t)(group_size - (last > silent ? last - silent : 0));
    enum opcode opcode = options.dialect == NATS ? BINARY : options.dialect == PINGS ? PING : TEXT;
    write_frame(c, opcode, text, (size_t)(before + options.size + after));
}

/* ---- Reading. ---- */

static void on_message(struct client *c, const char *payload, size_t length, uint64_t now) {
    if (length != (size_t)options.size) { count.foreign++; return; }
    uint64_t sender = read_hex(payload, 8), due = read_hex(payload + 16, 16);
    uint32_t number = (uint32_t)read_hex(payload + 8, 8);
    int group = c->number / group_size;
    if (sender >= (uint64_t)options.clients || (int)sender / group_size != group) { count.foreign++; return; }
    int slot = (int)sender % group_size;
    if (slot >= options.senders) { count.foreign++; return; }
    uint32_t *next = &expected[(size_t)c->number * (size_t)options.senders + (size_t)slot];
    if (number < *next) { count.repeated++; return; }
    *next = number + 1; /* what was skipped stays owed */
    count.received++;
    if (due >= began && began && (!ended || due < ended)) record(now > due ? now - due : 0);
    if (sending && options.rate == 0 && (int)sender == c->number) {
        if (options.window) { next_sender = (next_sender + 1) % sender_count; send_message(senders[next_sender], now); }
        else send_message(c->number, now);
    }
}

static void joined(struct client *c) {
    c->state = READY;
    ready++;
    if (c->stalled) watch(c);
}

/* Engine.IO and Socket.IO packets in text frames: open, connect, event, ping. */
static void on_socketio(struct client *c, const char *text, size_t length, uint64_t now) {
    static const char event[] = "42[\"message\",\"";
    size_t head = sizeof event - 1;
    if (length > head + 2 && !memcmp(text, event, head)) on_message(c, text + head, length - head - 2, now);
    else if (length && text[0] == '0' && c->state == JOINING) write_frame(c, TEXT, "40", 2);
    else if (length >= 2 && !memcmp(text, "40", 2) && c->state == JOINING) joined(c);
    else if (length && text[0] == '2') write_frame(c, TEXT, "3", 1);
    else count.foreign++;
}

/* NATS' client protocol is a stream; frames cut it anywhere. Returns how much of it was used. */
static size_t on_nats(struct client *c, const char *text, size_t length, uint64_t now) {
    size_t used = 0;
    while (used < length) {
        const char *line = text + used, *end = memchr(line, '\n', length - used);
        if (!end) break;
        size_t after = (size_t)(end + 1 - text);
        if (!strncmp(line, "MSG ", 4)) {
            const char *digits = end - 1;
            while (digits[-1] != ' ') digits--;
            size_t size = (size_t)atoi(digits);
            if (length - after < size + 2) break;
            on_message(c, text + after, size, now);
            after += size + 2;
        } else if (!strncmp(line, "INFO", 4) && c->state == JOINING) {
            char hello[200];
            int n = sprintf(hello, "CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"c\",\"version\":\"1\"}\r\n"
                            "SUB room.%d 1\r\nPING\r\n", room_of(c->number));
            write_frame(c, BINARY, hello, (size_t)n);
        } else if (!strncmp(line, "PONG", 4)) { if (c->state == JOINING) joined(c); }
        else if (!strncmp(line, "PING", 4)) write_frame(c, BINARY, "PONG\r\n", 6);
        else if (strncmp(line, "INFO", 4)) count.foreign++;
        used = after;
    }
    return used;
}

static void on_nats_frame(struct client *c, const char *payload, size_t length, uint64_t now) {
    if (c->stream_size == 0) {
        size_t used = on_nats(c, payload, length, now);
        keep(&c->stream, &c->stream_size, payload + used, length - used);
        return;
    }
    char *joined_up = malloc(c->stream_size + length);
    if (!joined_up) die("memory");
    memcpy(joined_up, c->stream, c->stream_size);
    memcpy(joined_up + c->stream_size, payload, length);
    size_t size = c->stream_size + length, used = on_nats(c, joined_up, size, now);
    keep(&c->stream, &c->stream_size, joined_up + used, size - used);
    free(joined_up);
}

/* pystrands.v1: a line of JSON, then the message. */
static void on_session(struct client *c, const char *text, size_t length, uint64_t now) {
    static const char number[] = "\"n\":";
    const char *end = memchr(text, '\n', length);
    size_t head = end ? (size_t)(end - text) : length;
    const char *n = memmem(text, head, number, sizeof number - 1);
    char seen[60];
    if (c->state == JOINING) {
        if (!n || !memmem(text, head, "\"welcome\"", 9)) { count.foreign++; return; }
        write_frame(c, TEXT, seen, (size_t)sprintf(seen, "{\"seen\":%lld}", atoll(n + sizeof number - 1)));
        joined(c);
        return;
    }
    if (length == 2) write_frame(c, TEXT, "{}", 2);
    if (!end) return; /* what has no message: that some are done, say */
    on_message(c, end + 1, length - head - 1, now);
    if (n && !memmem(text, head, "\"r\":", 4) && !memmem(text, head, "\"b\":", 4) && ++c->unseen == UNSEEN) {
        c->unseen = 0;
        write_frame(c, TEXT, seen, (size_t)sprintf(seen, "{\"seen\":%lld}", atoll(n + sizeof number - 1)));
    }
}

static void on_frame(struct client *c, int first, const char *payload, size_t length, uint64_t now) {
    switch (first) {
    case 0x80 | TEXT:
    case 0x80 | BINARY:
        if (options.dialect == PINGS) break; /* a broadcast that is none of ours */
        if (options.dialect == NATS) on_nats_frame(c, payload, length, now);
        else if (options.dialect == SOCKETIO) on_socketio(c, payload, length, now);
        else if (options.dialect == SESSIONS) on_session(c, payload, length, now);
        else on_message(c, payload, length, now);
        break;
    case 0x80 | PONG: if (options.dialect == PINGS) on_message(c, payload, length, now); break;
    case 0x80 | PING: write_frame(c, PONG, payload, length); break;
    case 0x80 | CLOSE: gone(c); break;
    default: count.foreign++; /* a fragment or a compressed frame: nobody here sends them */
    }
}

/* Takes the whole frames at the start of data; returns how many bytes they were. */
static size_t on_frames(struct client *c, const char *data, size_t length, uint64_t now) {
    const unsigned char *bytes = (const unsigned char *)data;
    size_t at = 0;
    while (length - at >= 2 && c->state != GONE) {
        size_t head = 2, size = bytes[at + 1];
        if (size == 126) {
            if (length - at < 4) break;
            size = (size_t)bytes[at + 2] << 8 | bytes[at + 3];
            head = 4;
        } else if (size == 127) {
            if (length - at < 10) break;
            size = 0;
            for (int i = 2; i < 10; i++) size = size << 8 | bytes[at + i];
            head = 10;
        }
        if (length - at < head + size) break;
        on_frame(c, bytes[at], data + at + head, size, now);
        at += head + size;
    }
    return at;
}

static size_t on_response(struct client *c, char *data, size_t length) {
    char *end = memmem(data, length, "\r\n\r\n", 4);
    if (!end) return 0;
    static const char accepted[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    bool good = length > 12 && !memcmp(data, "HTTP/1.1 101", 12) && memmem(data, length, accepted, sizeof accepted - 1);
    if (!good) { gone(c); return length; }
    c->state = JOINING;
    if (options.dialect == PLAIN || options.dialect == PINGS) joined(c);
    return (size_t)(end + 4 - data);
}

static char buffer[1 << 20];

static void on_readable(struct client *c) {
    if (c->rest_size) memcpy(buffer, c->rest, c->rest_size);
    if (c->rest_size == sizeof buffer) die("a frame longer than a megabyte");
    ssize_t n = recv(c->fd, buffer + c->rest_size, sizeof buffer - c->rest_size, 0);
    if (n <= 0) { if (n == 0 || errno != EAGAIN) gone(c); return; }
    size_t length = c->rest_size + (size_t)n, used = 0;
    if (c->state == UPGRADING) used = on_response(c, buffer, length);
    if (c->state == JOINING || c->state == READY) used += on_frames(c, buffer + used, length - used, now_ns());
    if (c->rest_size || used < length) keep(&c->rest, &c->rest_size, buffer + used, length - used);
}

/* ---- Connecting. ---- */

static int port_of(const struct client *c) { return options.ports[c->number % options.port_count]; }

static void upgrade(struct client *c) {
    char request[600], path[200];
    int failed = 0, room = room_of(c->number);
    socklen_t size = sizeof failed;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &failed, &size);
    if (failed) { gone(c); return; }
    if (options.dialect == NATS) sprintf(path, "/");
    else if (options.dialect == SOCKETIO)
        snprintf(path, sizeof path, "/socket.io/?EIO=4&transport=websocket&to=%s&room=room-%d", options.path, room);
    else snprintf(path, sizeof path, "%s/room-%d", options.path, room);
    int n = snprintf(request, sizeof request,
                     "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s\r\n", path, port_of(c),
                     options.dialect == SESSIONS ? "Sec-WebSocket-Protocol: pystrands.v1\r\n" : "");
    c->state = UPGRADING;
    c->writable_wanted = false;
    watch(c);
    write_bytes(c, request, (size_t)n);
}

static void start_connecting(struct client *c) {
    int yes = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) die("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
    struct sockaddr_in own = {.sin_family = AF_INET}, server = {.sin_family = AF_INET};
    own.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)(c->number / PORTS_OF_AN_ADDRESS));
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    server.sin_port = htons((uint16_t)port_of(c));
    if (bind(c->fd, (struct sockaddr *)&own, sizeof own)) die("bind");
    c->writable_wanted = true;
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = c};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event)) die("epoll_ctl");
    if (connect(c->fd, (struct sockaddr *)&server, sizeof server) && errno != EINPROGRESS) gone(c);
}

/* ---- The loop. ---- */

static bool told_to_go;

/* Serves what happens until then, at the latest. */
static void turn(uint64_t until) {
    static struct epoll_event events[512];
    uint64_t now = now_ns();
    struct timespec wait = {0};
    if (until > now) {
        wait.tv_sec = (time_t)((until - now) / 1000000000u);
        wait.tv_nsec = (long)((until - now) % 1000000000u);
    }
    int n = epoll_pwait2(epoll_fd, events, 512, &wait, NULL);
    if (n < 0 && errno == ENOSYS) /* before Linux 5.11; milliseconds, rounded down: the last one is spent in a circle */
        n = epoll_wait(epoll_fd, events, 512, until > now ? (int)((until - now) / 1000000u) : 0);
    for (int i = 0; i < n; i++) {
        struct client *c = events[i].data.ptr;
        if (!c) { /* stdin */
            char line[100];
            if (read(0, line, sizeof line) <= 0) exit(3);
            told_to_go = true;
            epoll_ctl(epoll_fd, EPOLL_CTL_DEL, 0, NULL);
            continue;
        }
        if (c->state == GONE) continue;
        if (c->state == CONNECTING) { upgrade(c); continue; }
        if (c->stalled && c->state == READY && events[i].events & (EPOLLHUP | EPOLLERR)) { gone(c); continue; }
        if (events[i].events & EPOLLOUT && c->out_size) on_writable(c);
        if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR) && c->state != GONE) on_readable(c);
    }
}

static void run_for(double seconds) {
    uint64_t end = now_ns() + (uint64_t)(seconds * 1e9);
    static uint64_t timetable, left; /* when it starts, and how many of its messages have left */
    if (sending && !timetable) timetable = now_ns();
    for (uint64_t now = now_ns(); now < end; now = now_ns()) {
        uint64_t next = end;
        if (sending && options.rate > 0) {
            for (;;) {
                uint64_t due = timetable + (uint64_t)((double)left * 1e9 / options.rate);
                if (due > now) { if (due < next) next = due; break; }
                send_message(senders[left++ % (uint64_t)sender_count], due);
            }
        }
        turn(next);
    }
}

static void connect_everybody(void) {
    int started = 0;
    uint64_t give_up = now_ns() + 120000000000u;
    while (ready < options.clients) {
        while (started < options.clients && started - ready - (int)count.refused < options.inflight)
            start_connecting(&clients[started++]);
        turn(now_ns() + 1000000000u);
        if (count.refused) { errno = 0; die("a connection was refused"); }
        if (now_ns() > give_up) { errno = 0; die("not everybody was connected within two minutes"); }
    }
}

static void wait_to_go(void) {
    struct epoll_event event = {.events = EPOLLIN};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &event)) die("standard input");
    while (!told_to_go) turn(now_ns() + 1000000000u);
}

static void drain(void) {
    uint64_t seen = count.received, give_up = now_ns() + (uint64_t)(options.drain * 1e9);
    while (count.received < count.owed && now_ns() < give_up) {
        turn(now_ns() + 100000000u);
        if (count.received != seen) { seen = count.received; give_up = now_ns() + (uint64_t)(options.drain * 1e9); }
    }
    run_for(0.05); /* long enough for a repeat to show itself */
}

static void measure(void) {
    uint64_t cpu[MOST_PROCESSES], own, received;
    for (int i = 0; i < sender_count; i++) senders[i] = i / options.senders * group_size + i % options.senders;
    run_for(options.settle); /* what servers say after connecting, and their own start-up work */
    sending = true;
    int at_once = options.rate > 0 ? 0 : options.window ? options.window : sender_count;
    for (int i = 0; i < at_once; i++) { next_sender = i % sender_count; send_message(senders[next_sender], now_ns()); }
    run_for(options.warmup);

    for (int i = 0; i < options.processes; i++) cpu[i] = clock_ns(options.clocks[i]);
    own = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    received = count.received;
    uint64_t sent = count.sent;
    began = now_ns();
    run_for(options.seconds);
    ended = now_ns();
    double seconds = (double)(ended - began) / 1e9;
    received = count.received - received;
    sent = count.sent - sent;
    own = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - own;
    for (int i = 0; i < options.processes; i++) cpu[i] = clock_ns(options.clocks[i]) - cpu[i];

    sending = false;
    drain();
    uint64_t lost = count.owed > count.received ? count.owed - count.received : 0;
    printf("{\"seconds\": %.6f, \"sent\": %lu, \"received\": %lu, \"rate\": %.3f, \"lost\": %lu, \"repeated\": %lu, "
           "\"foreign\": %lu, \"closed\": %lu, \"stalled_closed\": %d, \"load_cpu\": %.6f, \"cpu\": {",
           seconds, sent, received, (double)received / seconds, lost, count.repeated, count.foreign, count.closed,
           stalled_gone, (double)own / 1e9);
    for (int i = 0; i < options.processes; i++)
        printf("%s\"%s\": %.6f", i ? ", " : "", options.names[i], (double)cpu[i] / 1e9);
    printf("}, \"latency_us\": {\"samples\": %lu, \"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f, \"p999\": %.1f, \"max\": %.1f}}\n",
           samples, percentile(0.5), percentile(0.9), percentile(0.99), percentile(0.999), (double)longest / 1000);
    fflush(stdout);
}

static int choice(const char *value, const char *const *names) {
    for (int i = 0; names[i]; i++) if (!strcmp(value, names[i])) return i;
    fprintf(stderr, "load: what is '%s'?\n", value);
    exit(2);
}

static void add_process(char *spec) {
    char *pid = strchr(spec, '=');
    if (!pid || options.processes == MOST_PROCESSES) die("--process NAME=PID");
    *pid++ = 0;
    options.names[options.processes] = spec;
    if (clock_getcpuclockid(atoi(pid), &options.clocks[options.processes++])) die("--process");
}

static void add_port(const char *text) {
    if (options.port_count == MOST_PORTS || atoi(text) <= 0) die("--port");
    options.ports[options.port_count++] = atoi(text);
}

static void parse(int argc, char **argv) {
    static const char *const audiences[] = {"own", "room", "all", NULL};
    static const char *const dialects[] = {"plain", "pings", "socketio", "nats", "sessions", NULL};
    enum { PORT = 1, PATH, CLIENTS, ROOM_SIZE, SENDERS, SIZE, INFLIGHT, STALLED, WINDOW, SECONDS, WARMUP, SETTLE, DRAIN, RATE,
           HOLD, AUDIENCE, DIALECT, PROCESS };
    static const struct option known[] = {
        {"port", 1, 0, PORT}, /* may be repeated */
        {"path", 1, 0, PATH},       {"clients", 1, 0, CLIENTS},
        {"room-size", 1, 0, ROOM_SIZE}, /* clients that share a path */
        {"senders", 1, 0, SENDERS},     /* in each audience */
        {"size", 1, 0, SIZE},           /* bytes of a message, at least 32 */
        {"inflight", 1, 0, INFLIGHT},   /* connections being opened at a time */
        {"stalled", 1, 0, STALLED},     /* clients, the last ones, that never read */
        {"window", 1, 0, WINDOW},       /* closed loop: messages on their way in all, senders taking turns */
        {"seconds", 1, 0, SECONDS}, {"warmup", 1, 0, WARMUP},     {"settle", 1, 0, SETTLE}, {"drain", 1, 0, DRAIN},
        {"rate", 1, 0, RATE},           /* open loop: messages a second in all */
        {"hold", 0, 0, HOLD},           /* wait for a line on stdin before sending */
        {"audience", 1, 0, AUDIENCE}, {"dialect", 1, 0, DIALECT},
        {"process", 1, 0, PROCESS},     /* NAME=PID: account for its CPU; may be repeated */
        {0}};
    int option;
    while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) switch (option) {
        case PORT: add_port(optarg); break;
        case PATH: options.path = optarg; break;
        case CLIENTS: options.clients = atoi(optarg); break;
        case ROOM_SIZE: options.room_size = atoi(optarg); break;
        case SENDERS: options.senders = atoi(optarg); break;
        case SIZE: options.size = atoi(optarg); break;
        case INFLIGHT: options.inflight = atoi(optarg); break;
        case STALLED: options.stalled = atoi(optarg); break;
        case WINDOW: options.window = atoi(optarg); break;
        case SECONDS: options.seconds = atof(optarg); break;
        case WARMUP: options.warmup = atof(optarg); break;
        case SETTLE: options.settle = atof(optarg); break;
        case DRAIN: options.drain = atof(optarg); break;
        case RATE: options.rate = atof(optarg); break;
        case HOLD: options.hold = true; break;
        case AUDIENCE: options.audience = (enum audience)choice(optarg, audiences); break;
        case DIALECT: options.dialect = (enum dialect)choice(optarg, dialects); break;
        case PROCESS: add_process(optarg); break;
        default: exit(2);
    }
    group_size = options.audience == OWN ? 1 : options.audience == ALL ? options.clients : options.room_size;
    bool fits = options.port_count > 0 && options.clients > 0 && options.room_size > 0 && options.clients % group_size == 0 &&
                options.senders > 0 && options.senders <= group_size && options.size >= STAMP && options.size < 60000 &&
                options.stalled <= group_size - options.senders && options.stalled >= 0 && options.inflight > 0 &&
                strlen(options.path) < 100 && (options.dialect != PINGS || options.size < 126);
    if (!fits) { fprintf(stderr, "load: these options do not fit together\n"); exit(2); }
}

int main(int argc, char **argv) {
    parse(argc, argv);
    prctl(PR_SET_TIMERSLACK, 1);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (files.rlim_cur < (rlim_t)options.clients + 10) die("too few file descriptors allowed (ulimit -n)");

    epoll_fd = epoll_create1(0);
    clients = calloc((size_t)options.clients, sizeof *clients);
    sender_count = options.clients / group_size * options.senders;
    senders = calloc((size_t)sender_count, sizeof *senders);
    expected = calloc((size_t)options.clients * (size_t)options.senders, sizeof *expected);
    if (epoll_fd < 0 || !clients || !senders || !expected) die("start");
    for (int i = 0; i < options.clients; i++) {
        clients[i].number = i;
        clients[i].stalled = i >= options.clients - options.stalled;
    }

    uint64_t started = now_ns();
    connect_everybody();
    double seconds = (double)(now_ns() - started) / 1e9;
    printf("{\"connected\": %d, \"seconds\": %.6f, \"per_second\": %.1f}\n", ready, seconds, ready / seconds);
    fflush(stdout);
    if (options.hold) wait_to_go();
    if (options.seconds > 0) measure();

    struct linger at_once = {1, 0}; /* no port is left waiting behind thousands of connections */
    for (int i = 0; i < options.clients; i++)
        if (clients[i].state != GONE) setsockopt(clients[i].fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    return 0;
}
