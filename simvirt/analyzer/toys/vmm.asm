; A virtual machine monitor for the third-generation machine, in its own code: dispatcher, allocator, interpreters.
;
; Given from outside, as constants: GUEST, where the guest's storage begins; SIZE, how many words it has; OLD and NEW,
; where the guest's old and new PSW are (GUEST and GUEST + 1, if its storage begins with them); START_P, START_L and
; START_B, its first PSW. And two places: "supervisor", which runs code of the virtual supervisor, and "unprivileged",
; to which what needs no privilege goes when it trapped. In this VMM they are "direct" and "reflect".
;
; The virtual machine's state: storage as it is at GUEST; M, P, L, B in v_m to v_b; A and X, while the VMM runs, in
; saved_a and saved_x. v_m is 0 for supervisor and 1 for user. The real machine is in user mode whenever the guest runs.

address_mask = 0xfff
bound_mask = 0x1fff
field_l = 13                    ; where L begins in a PSW; P is 12 bits further, M another 12

start:      JUMP resume

; ---------------------------------------------------------------------------- dispatcher: the new PSW leads here

dispatch:   STORE saved_a
            TXA
            STORE saved_x
            LOAD 0              ; the old PSW: its P is the guest's
            SHR field_l + 12
            AND =address_mask
            STORE v_p

fetch:      LOAD v_p            ; could the guest fetch at all?
            SUB v_b
            JN fetch_1
            JUMP reflect
fetch_1:    LOAD v_p
            ADD v_l
            SUB =SIZE
            JN fetch_2
            JUMP reflect
fetch_2:    LOAD v_p
            ADD v_l
            ADD =GUEST
            TAX
            LOAD 0, x
            STORE word
            SHR 13              ; opcode, and the spare bits above it
            STORE opcode
            SUB =4              ; 0 to 3 are privileged
            JN privileged
            JUMP unprivileged

privileged: LOAD v_m            ; in its user mode the guest's own supervisor gets the trap
            JZ emulate
            JUMP reflect

; -------------------------------------------------------------------------------------------------- interpreters

emulate:    LOAD opcode
            JZ halt
            LOAD word           ; the address of the operand, as the guest means it
            AND =address_mask
            STORE operand
            LOAD word
            SHR 12
            AND =1
            JZ check
            LOAD operand
            ADD saved_x
            AND =address_mask
            STORE operand
check:      LOAD operand        ; may the guest reach it?
            ADD v_l
            SUB =SIZE
            JN check_1
            JUMP reflect
check_1:    LOAD operand
            SUB v_b
            JN check_2
            JUMP reflect
check_2:    LOAD v_p            ; nothing can trap any more: on to the next instruction
            ADD =1
            AND =address_mask
            STORE v_p
            LOAD operand
            ADD v_l
            ADD =GUEST
            TAX
            LOAD opcode
            SUB =1
            JZ lpsw
            SUB =1
            JZ spsw

lrb:        LOAD 0, x
            STORE new
            AND =bound_mask
            STORE v_b
            LOAD new
            SHR field_l
            AND =address_mask
            STORE v_l
            JUMP resume

spsw:       LOAD v_m
            SHL 12
            ADD v_p
            SHL 12
            ADD v_l
            SHL field_l
            ADD v_b
            STORE 0, x
            JUMP resume

lpsw:       LOAD 0, x
unpack:     STORE new
            AND =bound_mask
            STORE v_b
            LOAD new
            SHR field_l
            AND =address_mask
            STORE v_l
            LOAD new
            SHR field_l + 12
            AND =address_mask
            STORE v_p
            LOAD new
            SHR field_l + 24
            STORE v_m
            JUMP resume

halt:       LOAD word           ; HALT has no operand: with one it is no instruction
            JZ halt_1
            JUMP reflect
halt_1:     LOAD v_p
            ADD =1
            AND =address_mask
            STORE v_p
            LOAD saved_x
            TAX
            LOAD saved_a
            HALT

; ------------------------------------------------------------------ the guest's own trap: its PSWs change places

reflect:    LOAD v_m
            SHL 12
            ADD v_p
            SHL 12
            ADD v_l
            SHL field_l
            ADD v_b
            STORE OLD
            LOAD NEW
            JUMP unpack

; --------------------------------------------- allocator: what the guest asks for in v_l, v_b, what it gets in r_*

resume:     LOAD v_m
            JZ supervisor
direct:     LOAD =SIZE
            SUB v_l             ; room above L
            JZ nothing
            JN nothing
            STORE r_b
            SUB v_b
            JN allot            ; less room than the guest's bound: the bound is what there is
            LOAD v_b
            STORE r_b
allot:      LOAD v_l
            ADD =GUEST
            STORE r_l
            JUMP go
nothing:    LDI 0
            STORE r_b
            STORE r_l
go:         LDI 1               ; real user mode, always
            SHL 12
            ADD v_p
            SHL 12
            ADD r_l
            SHL field_l
            ADD r_b
            STORE new
            LOAD saved_x
            TAX
            LOAD saved_a
            LPSW new

v_m:        .word 0
v_p:        .word START_P
v_l:        .word START_L
v_b:        .word START_B
saved_a:    .word 0
saved_x:    .word 0
r_l:        .word 0
r_b:        .word 0
word:       .word 0
opcode:     .word 0
operand:    .word 0
new:        .word 0
