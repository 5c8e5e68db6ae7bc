/* Ask for a file by HTTP, and check the answer as it comes, to its last byte. */
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEAD 8192  /* room for the head of an answer */

struct file {
    char *body, request[512];
    size_t length, asked;  /* of the body, of the request */
};

struct answer {
    size_t head, body;  /* how much of them has come */
    int has_head, closes;
    char text[HEAD + 1];
};

enum said { MORE, WHOLE, BAD };

/* `origin`: the host and port that a proxy is to ask, in absolute form, or none; `field` is a
   line of the request's head, or none. */
static void read_file(struct file *file, const char *path, const char *origin,
                      const char *field) {
    struct stat stat;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &stat) < 0) err(66, "%s", path);
    file->length = stat.st_size;
    if (!(file->body = malloc(file->length + 1))) err(71, "memory");
    if (read(fd, file->body, file->length) != (ssize_t)file->length) err(66, "%s", path);
    close(fd);
    snprintf(file->request, sizeof file->request,
             "GET %s%s/%s HTTP/1.1\r\nHost: %s\r\n%s\r\n", origin ? "http://" : "",
             origin ? origin : "", basename(path), origin ? origin : "localhost", field);
    file->asked = strlen(file->request);
}

static void await_answer(struct answer *a) {
    a->head = a->body = a->has_head = a->closes = 0;
}

/* The value of a field, up to the end of its line. `name` has its colon. */
static const char *find_field(const char *head, const char *name) {
    size_t length = strlen(name);
    for (const char *line = head; (line = strstr(line, "\r\n")); line += 2)
        if (!strncasecmp(line + 2, name, length)) return line + 2 + length;
    return NULL;
}

static int has_option(const char *value, const char *option) {
    for (; value && *value && *value != '\r'; value++)
        if (!strncasecmp(value, option, strlen(option))) return 1;
    return 0;
}

/* Whether the connection ends with this answer (RFC 9112, 9.3). */
static int says_close(const char *head) {
    const char *value = find_field(head, "connection:");
    return has_option(value, "close") || (head[7] == '0' && !has_option(value, "keep-alive"));
}

static int is_good_head(const char *head, const struct file *file) {
    if (strncmp(head, "HTTP/1.", 7) || strncmp(head + 8, " 200 ", 5)) return 0;
    const char *length = find_field(head, "content-length:");
    return !length || strtoul(length, NULL, 10) == file->length;
}

/* Take in a part of a head; what is behind its end stays in `data` and `count`. */
static enum said take_head(struct answer *a, const char **data, size_t *count) {
    size_t had = a->head, taken = *count < HEAD - had ? *count : HEAD - had;
    memcpy(a->text + had, *data, taken);
    a->text[had + taken] = 0;
    char *end = strstr(a->text, "\r\n\r\n");
    if (!end) {
        a->head += taken;
        return a->head == HEAD ? BAD : MORE;
    }
    *end = 0;
    a->has_head = 1;
    a->head = end + 4 - a->text;
    *data += a->head - had;
    *count -= a->head - had;
    return WHOLE;
}

/* Take in a part of an answer. A byte behind the last one is bad as well. */
static enum said take_answer(struct answer *a, const struct file *file, const char *data,
                             size_t count) {
    if (!a->has_head) {
        enum said said = take_head(a, &data, &count);
        if (said != WHOLE) return said;
        if (!is_good_head(a->text, file)) return BAD;
        a->closes = says_close(a->text);
    }
    if (count > file->length - a->body || memcmp(file->body + a->body, data, count)) return BAD;
    a->body += count;
    return a->body == file->length ? WHOLE : MORE;
}
