/* A yardstick: what rooms cost without Python, without a backend, and without any limit, time-out or check.
 *
 *     cc -O2 -Wall -Wextra -o peer_c peer_c.c && ./peer_c PORT
 *
 * WebSocket (RFC 6455) on one epoll loop. A message is framed once; all that one client gets in a turn of the loop
 * leaves in one write. /echo/... answers the sender, /all/... everybody, any other path its room.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

struct client {
    int fd;
    bool open, dirty, waits;        /* upgraded; has something to write in this turn; its socket was full */
    struct room *room;
    struct client *next, *previous; /* in the room */
    struct client *next_dirty;
    char *in, *out;
    size_t in_size, out_size, out_room;
};

struct room {
    char path[100];
    struct client *members;
    struct room *next;
};

enum { BUCKETS = 1 << 14, EVENTS = 512 };
static struct room *rooms[BUCKETS], echo = {.path = "/echo"}, everybody = {.path = "/all"};
static struct client *dirty;
static int epoll_fd;

static void die(const char *what) { perror(what); exit(1); }

/* ---- The handshake: SHA-1 (FIPS 180-4) and base64 (RFC 4648). ---- */

static uint32_t rotate(uint32_t x, int n) { return x << n | x >> (32 - n); }

static void sha1_block(uint32_t h[5], const unsigned char *block) {
    uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 80; i++) w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    for (int i = 0; i < 80; i++) {
        uint32_t f = i < 20 ? (b & c) | (~b & d) : i >= 40 && i < 60 ? (b & c) | (b & d) | (c & d) : b ^ c ^ d;
        static const uint32_t k[] = {0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xCA62C1D6};
        uint32_t t = rotate(a, 5) + f + e + k[i / 20] + w[i];
        e = d; d = c; c = rotate(b, 30); b = a; a = t;
    }
    h[0] += a; h[1] += b; h[2] += c; h[3] += d; h[4] += e;
}

/* The 24 characters of a key and the 36 of the RFC's constant fill one block; padding the second. */
static void accept_value(const char *key, char out[29]) {
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    unsigned char text[128] = {0}, digest[21] = {0};
    memcpy(text, key, 24);
    memcpy(text + 24, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36);
    text[60] = 0x80;
    text[126] = 480 >> 8;
    text[127] = 480 & 255;
    sha1_block(h, text);
    sha1_block(h, text + 64);
    for (int i = 0; i < 20; i++) digest[i] = (unsigned char)(h[i / 4] >> (24 - 8 * (i % 4)));
    for (int i = 0; i < 7; i++) {
        uint32_t three = (uint32_t)digest[3 * i] << 16 | (uint32_t)digest[3 * i + 1] << 8 | digest[3 * i + 2];
        for (int j = 0; j < 4; j++) out[4 * i + j] = alphabet[three >> (18 - 6 * j) & 63];
    }
    out[27] = '=';
    out[28] = 0;
}

/* ---- Rooms. ---- */

static struct room *room_at(const char *path) {
    if (!strncmp(path, "/echo", 5)) return &echo;
    if (!strncmp(path, "/all", 4)) return &everybody;
    uint32_t hash = 2166136261u;
    for (const char *at = path; *at; at++) hash = (hash ^ (unsigned char)*at) * 16777619u;
    struct room **bucket = &rooms[hash % BUCKETS];
    for (struct room *room = *bucket; room; room = room->next) if (!strcmp(room->path, path)) return room;
    struct room *room = calloc(1, sizeof *room);
    if (!room) die("memory");
    snprintf(room->path, sizeof room->path, "%s", path);
    room->next = *bucket;
    return *bucket = room;
}

static void join(struct client *c, struct room *room) {
    c->room = room;
    c->next = room->members;
    if (c->next) c->next->previous = c;
    room->members = c;
}

static void leave(struct client *c) {
    if (c->previous) c->previous->next = c->next;
    else if (c->room) c->room->members = c->next;
    if (c->next) c->next->previous = c->previous;
}

/* ---- Writing. ---- */

static void enqueue(struct client *c, const char *bytes, size_t length) {
    if (c->out_size + length > c->out_room) {
        c->out_room = 2 * (c->out_size + length);
        c->out = realloc(c->out, c->out_room);
        if (!c->out) die("memory");
    }
    memcpy(c->out + c->out_size, bytes, length);
    c->out_size += length;
    if (!c->dirty) { c->dirty = true; c->next_dirty = dirty; dirty = c; }
}

static void watch(struct client *c, bool waits) {
    struct epoll_event event = {.events = EPOLLIN | (waits ? EPOLLOUT : 0), .data.ptr = c};
    if (c->waits != waits) epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event);
    c->waits = waits;
}

static void flush(struct client *c) {
    ssize_t n = send(c->fd, c->out, c->out_size, MSG_NOSIGNAL);
    if (n < 0) n = 0; /* full, or gone: then the read says so */
    c->out_size -= (size_t)n;
    if (c->out_size) memmove(c->out, c->out + n, c->out_size);
    watch(c, c->out_size > 0);
}

/* ---- Reading. ---- */

static void on_message(struct client *c, const char *payload, size_t length) {
    char frame[length + 4];
    size_t head = length < 126 ? 2 : 4;
    frame[0] = (char)0x81;
    frame[1] = length < 126 ? (char)length : 126;
    if (head == 4) { frame[2] = (char)(length >> 8); frame[3] = (char)length; }
    memcpy(frame + head, payload, length);
    if (c->room == &echo) { enqueue(c, frame, head + length); return; }
    for (struct client *member = c->room->members; member; member = member->next) enqueue(member, frame, head + length);
}

static size_t on_frames(struct client *c, unsigned char *data, size_t length) {
    size_t at = 0;
    while (length - at >= 6) {
        size_t head = 6, size = data[at + 1] & 127;
        if (size == 127) die("a frame this long is not part of the benchmark");
        if (size == 126) {
            if (length - at < 8) break;
            size = (size_t)data[at + 2] << 8 | data[at + 3];
            head = 8;
        }
        if (length - at < head + size) break;
        unsigned char *payload = data + at + head, *mask = payload - 4;
        for (size_t i = 0; i < size; i++) payload[i] ^= mask[i & 3];
        int opcode = data[at] & 15;
        if (opcode == 1) on_message(c, (char *)payload, size);
        at += head + size;
    }
    return at;
}

static size_t on_request(struct client *c, char *data, size_t length) {
    char *end = memmem(data, length, "\r\n\r\n", 4), path[100] = "", answer[200], accept[29];
    if (!end) return 0;
    *end = 0;
    char *key = strcasestr(data, "Sec-WebSocket-Key: ");
    if (!key || sscanf(data, "GET %99s HTTP/1.1", path) != 1) { /* somebody asks whether we are up */
        enqueue(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 38);
        return length;
    }
    accept_value(key + 19, accept);
    int n = sprintf(answer, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    "Sec-WebSocket-Accept: %s\r\n\r\n", accept);
    enqueue(c, answer, (size_t)n);
    join(c, room_at(path));
    c->open = true;
    return (size_t)(end + 4 - data);
}

static char buffer[1 << 18];

/* False: the client is gone. */
static bool on_readable(struct client *c) {
    if (c->in_size) memcpy(buffer, c->in, c->in_size);
    ssize_t n = recv(c->fd, buffer + c->in_size, sizeof buffer - c->in_size, 0);
    if (n < 0 && errno == EAGAIN) return true;
    if (n <= 0) return false;
    size_t length = c->in_size + (size_t)n, used = 0;
    if (!c->open) used = on_request(c, buffer, length);
    if (c->open) used += on_frames(c, (unsigned char *)buffer + used, length - used);
    free(c->in);
    c->in = NULL;
    c->in_size = length - used;
    if (c->in_size) {
        c->in = malloc(c->in_size);
        if (!c->in) die("memory");
        memcpy(c->in, buffer + used, c->in_size);
    }
    return true;
}

static void forget(struct client *c) {
    leave(c);
    for (struct client **at = &dirty; *at; at = &(*at)->next_dirty) if (*at == c) { *at = c->next_dirty; break; }
    close(c->fd);
    free(c->in);
    free(c->out);
    free(c);
}

static void on_connections(int listener) {
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        int yes = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        struct client *c = calloc(1, sizeof *c);
        if (!c) die("memory");
        c->fd = fd;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
    }
}

int main(int argc, char **argv) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)(argc > 1 ? atoi(argv[1]) : 0))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), yes = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) die("listen");
    epoll_fd = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN}, events[EVENTS];
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int n = epoll_wait(epoll_fd, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            struct client *c = events[i].data.ptr;
            if (!c) { on_connections(listener); continue; }
            if (events[i].events & EPOLLOUT && c->out_size) flush(c);
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR) && !on_readable(c)) forget(c);
        }
        while (dirty) {
            struct client *c = dirty;
            dirty = c->next_dirty;
            c->dirty = false;
            if (!c->waits) flush(c);
        }
    }
}
