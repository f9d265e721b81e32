/* files.c: files in memory, in one directory; and what a descriptor can mean: a file, the directory, the console, an end of a pipe.
 *
 * All of this runs in system calls alone, which are not preempted: nothing needs to be masked.
 */
#include "kernel.h"
#include "system_calls.h"

enum { NODES = 32, PAGES_OF_FILE = 16, FILES = 32 };

struct node { /* its name is empty if there is no such file */
    char name[NAME_SIZE];
    u32 size;
    u8 *pages[PAGES_OF_FILE];
};
enum file_kind { UNUSED, NODE, DIRECTORY, CONSOLE, PIPE_READER, PIPE_WRITER };
struct file {
    enum file_kind kind;
    u32 references, offset; /* the offset counts entries in the directory */
    struct node *node;
    struct pipe *pipe;
};

static struct node nodes[NODES];
static struct file files[FILES];

/* ---- What a file holds. */

struct node *node_find(const char *name) {
    for (struct node *node = nodes; node < nodes + NODES; node++)
        if (node->name[0] && text_equal(node->name, name))
            return node;
    return 0;
}

static struct node *node_make(const char *name) {
    if (text_length(name) >= NAME_SIZE || !name[0])
        return 0;
    for (struct node *node = nodes; node < nodes + NODES; node++)
        if (!node->name[0]) {
            memcpy(node->name, name, text_length(name) + 1);
            return node;
        }
    return 0;
}

static void node_empty(struct node *node) {
    for (u32 i = 0; i < PAGES_OF_FILE; i++)
        if (node->pages[i]) {
            frame_free(node->pages[i]);
            node->pages[i] = 0;
        }
    node->size = 0;
}

/* How much of a transfer goes on in the page of an offset. */
static u32 within_page(u32 offset, u32 size) {
    u32 left = PAGE_SIZE - offset % PAGE_SIZE;
    return size < left ? size : left;
}

u32 node_read(struct node *node, u32 offset, void *buffer, u32 size) {
    if (offset >= node->size)
        return 0;
    if (size > node->size - offset)
        size = node->size - offset;
    for (u32 done = 0, part; done < size; done += part) {
        part = within_page(offset + done, size - done);
        memcpy((u8 *)buffer + done, node->pages[(offset + done) / PAGE_SIZE] + (offset + done) % PAGE_SIZE, part);
    }
    return size;
}

i32 node_write(struct node *node, u32 offset, const void *buffer, u32 size) {
    if (offset > PAGES_OF_FILE * PAGE_SIZE || size > PAGES_OF_FILE * PAGE_SIZE - offset)
        return FAILED;
    for (u32 done = 0, part; done < size; done += part) {
        u8 **page = &node->pages[(offset + done) / PAGE_SIZE];
        if (!*page && !(*page = frame_allocate()))
            return FAILED;
        part = within_page(offset + done, size - done);
        memcpy(*page + (offset + done) % PAGE_SIZE, (const u8 *)buffer + done, part);
    }
    if (offset + size > node->size)
        node->size = offset + size;
    return (i32)size;
}

void files_start(void) {
    for (const struct initial_file *file = initial_files; file->name; file++) {
        struct node *node = node_make(file->name);
        if (!node || node_write(node, 0, file->data, file->size) == FAILED)
            panic("no room for the files");
    }
}

/* ---- What a descriptor means. */

static struct file *file_make(enum file_kind kind) {
    for (struct file *file = files; file < files + FILES; file++)
        if (file->kind == UNUSED) {
            *file = (struct file){.kind = kind, .references = 1};
            return file;
        }
    return 0;
}

struct file *console_file(void) { return file_make(CONSOLE); }

struct file *file_share(struct file *file) {
    file->references++;
    return file;
}

void file_close(struct file *file) {
    if (--file->references)
        return;
    if (file->kind == PIPE_READER || file->kind == PIPE_WRITER)
        pipe_close(file->pipe, file->kind == PIPE_WRITER);
    file->kind = UNUSED;
}

static i32 descriptor_make(struct file *file) {
    for (u32 i = 0; i < FILES_OPEN && file; i++)
        if (!current->files[i]) {
            current->files[i] = file;
            return (i32)i;
        }
    if (file)
        file_close(file);
    return FAILED;
}

i32 file_open(const char *name, u32 flags) {
    if (text_equal(name, "/"))
        return descriptor_make(file_make(DIRECTORY));
    struct node *node = node_find(name);
    if (flags & OPEN_CREATE) {
        if (node)
            node_empty(node);
        else
            node = node_make(name);
    }
    struct file *file = node ? file_make(NODE) : 0;
    if (file)
        file->node = node;
    return descriptor_make(file);
}

i32 file_remove(const char *name) {
    struct node *node = node_find(name);
    for (struct file *file = files; file < files + FILES; file++)
        if (file->kind == NODE && file->node == node)
            return FAILED;
    if (!node)
        return FAILED;
    node_empty(node);
    node->name[0] = 0;
    return 0;
}

i32 files_pipe(i32 *descriptors) {
    struct pipe *pipe = pipe_make();
    struct file *reader = pipe ? file_make(PIPE_READER) : 0, *writer = reader ? file_make(PIPE_WRITER) : 0;
    if (!writer) {
        if (reader)
            reader->kind = UNUSED;
        if (pipe) {
            pipe_close(pipe, 0);
            pipe_close(pipe, 1);
        }
        return FAILED;
    }
    reader->pipe = writer->pipe = pipe;
    descriptors[0] = descriptor_make(reader);
    if (descriptors[0] == FAILED) {
        file_close(writer);
        return FAILED;
    }
    descriptors[1] = descriptor_make(writer);
    if (descriptors[1] == FAILED) {
        file_close(reader);
        current->files[descriptors[0]] = 0;
        return FAILED;
    }
    return 0;
}

static i32 directory_read(struct file *file, char *buffer, u32 size) {
    while (file->offset < NODES) {
        struct node *node = &nodes[file->offset++];
        if (!node->name[0])
            continue;
        struct directory_entry entry = {.size = node->size};
        memcpy(entry.name, node->name, NAME_SIZE);
        if (size < sizeof entry)
            return FAILED;
        memcpy(buffer, &entry, sizeof entry);
        return sizeof entry;
    }
    return 0;
}

i32 file_read(struct file *file, char *buffer, u32 size) {
    switch (file->kind) {
    case NODE: {
        u32 count = node_read(file->node, file->offset, buffer, size);
        file->offset += count;
        return (i32)count;
    }
    case DIRECTORY:
        return directory_read(file, buffer, size);
    case CONSOLE:
        return console_read(buffer, size);
    case PIPE_READER:
        return pipe_read(file->pipe, buffer, size);
    default:
        return FAILED;
    }
}

i32 file_write(struct file *file, const char *buffer, u32 size) {
    switch (file->kind) {
    case NODE: {
        if (file->offset > file->node->size) /* it has been emptied meanwhile: a file has no holes */
            file->offset = file->node->size;
        i32 count = node_write(file->node, file->offset, buffer, size);
        file->offset += count > 0 ? (u32)count : 0;
        return count;
    }
    case CONSOLE:
        for (u32 i = 0; i < size; i++)
            put_char(buffer[i]);
        return (i32)size;
    case PIPE_WRITER:
        return pipe_write(file->pipe, buffer, size);
    default:
        return FAILED;
    }
}
