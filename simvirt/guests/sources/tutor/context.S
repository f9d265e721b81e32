/* context.S: from the kernel stack of one process to that of another.
 *
 * void context_switch(u32 *save_stack_pointer, u32 stack_pointer): what C wants kept goes onto the old stack, and comes from the new one.
 * The call returns in the other process, out of the context_switch that it had called when it was left.
 */
    .text
    .globl context_switch
    .type context_switch, @function
context_switch:
    movl 4(%esp), %eax
    movl 8(%esp), %edx
    pushl %ebp
    pushl %ebx
    pushl %esi
    pushl %edi
    movl %esp, (%eax)
    movl %edx, %esp
    popl %edi
    popl %esi
    popl %ebx
    popl %ebp
    ret
    .size context_switch, . - context_switch

    .section .note.GNU-stack, "", @progbits
