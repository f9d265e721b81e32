/* system_calls.h: what a program can ask the kernel for, by INT 0x80: the number in EAX, arguments in EBX, ECX and EDX, the result in EAX.
 * A result of -1 says that it could not be done. */
#ifndef SYSTEM_CALLS_H
#define SYSTEM_CALLS_H

enum system_call_number {
    CALL_EXIT = 1,   /* (status): ends the process */
    CALL_FORK,       /* (): a copy of the process; 0 in the copy, its number in the original */
    CALL_EXEC,       /* (name, arguments): another program in this process; the last of the arguments is a null pointer */
    CALL_WAIT,       /* (int *status): until a child ends; its number */
    CALL_GETPID,     /* () */
    CALL_OPEN,       /* (name, flags): a descriptor; "/" is the directory */
    CALL_CLOSE,      /* (descriptor) */
    CALL_READ,       /* (descriptor, buffer, size): bytes read; 0 at the end */
    CALL_WRITE,      /* (descriptor, buffer, size): bytes written */
    CALL_PIPE,       /* (int descriptors[2]): the first to read, the second to write */
    CALL_DUPLICATE,  /* (descriptor, other): makes other mean the same */
    CALL_REMOVE,     /* (name) */
    CALL_SLEEP,      /* (milliseconds) */
    CALL_KILL,       /* (process) */
    CALL_GROW,       /* (bytes): that much more memory; its address */
    CALL_POWER_OFF,  /* (status) */
};

/* What reading the directory gives, one by one. */
struct directory_entry {
    char name[16];
    unsigned size;
};

#endif
