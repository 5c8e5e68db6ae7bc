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
    int has_head;
    char text[HEAD + 1];
};

enum said { MORE, WHOLE, BAD };

/* `field` is a line of the request's head, or none. */
static void read_file(struct file *file, const char *path, const char *field) {
    struct stat stat;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &stat) < 0) err(66, "%s", path);
    file->length = stat.st_size;
    if (!(file->body = malloc(file->length + 1))) err(71, "memory");
    if (read(fd, file->body, file->length) != (ssize_t)file->length) err(66, "%s", path);
    close(fd);
    snprintf(file->request, sizeof file->request,
             "GET /%s HTTP/1.1\r\nHost: localhost\r\n%s\r\n", basename(path), field);
    file->asked = strlen(file->request);
}

static void await_answer(struct answer *a) {
    a->head = a->body = a->has_head = 0;
}

static const char *find_length(const char *head) {
    for (const char *line = head; (line = strstr(line, "\r\n")); line += 2)
        if (!strncasecmp(line + 2, "content-length:", 15)) return line + 17;
    return NULL;
}

static int is_good_head(const char *head, const struct file *file) {
    if (strncmp(head, "HTTP/1.", 7) || strncmp(head + 8, " 200 ", 5)) return 0;
    const char *length = find_length(head);
    return !length || strtoul(length, NULL, 10) == file->length;
}

/* Take in a part of an answer. A byte behind the last one is bad as well. */
static enum said take_answer(struct answer *a, const struct file *file, const char *data,
                             size_t count) {
    if (!a->has_head) {
        size_t had = a->head, taken = count < HEAD - had ? count : HEAD - had;
        memcpy(a->text + had, data, taken);
        a->text[had + taken] = 0;
        char *end = strstr(a->text, "\r\n\r\n");
        if (!end) {
            a->head += taken;
            return a->head == HEAD ? BAD : MORE;
        }
        *end = 0;
        if (!is_good_head(a->text, file)) return BAD;
        a->has_head = 1;
        a->head = end + 4 - a->text;
        data += a->head - had;
        count -= a->head - had;
    }
    if (count > file->length - a->body || memcmp(file->body + a->body, data, count)) return BAD;
    a->body += count;
    return a->body == file->length ? WHOLE : MORE;
}
