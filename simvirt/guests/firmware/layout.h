/* Where things are, for assembly and C. */
#ifndef LAYOUT_H
#define LAYOUT_H

#define FIRMWARE_SEGMENT 0xf000
#define FIRMWARE_LINEAR 0xf0000
#define BDA_SEGMENT 0x40           /* the BIOS data area, whose layout is the PC's since 1981 */
#define BDA_TICKS 0x6c
#define BDA_MIDNIGHT 0x70
#define EBDA_SEGMENT 0x9fc0        /* the extended BIOS data area: its size, the firmware's variables, its stack */
#define EBDA_FREE_STACK 0x10       /* where the stack of the next service begins */
#define EBDA_VARIABLES 0x20
#define EBDA_STACK_TOP 0x400
#define TICKS_A_DAY 0x1800b0
#define REGISTERS_SIZE 44          /* struct registers */

#endif
