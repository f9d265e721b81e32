; What a hybrid monitor has beside vmm.asm: interpreters for all instructions, since it executes none of the virtual
; supervisor's code directly (Popek & Goldberg 1974, Theorem 3). User code runs directly as before.

supervisor: JUMP fetch

unprivileged:
            LOAD v_m            ; what traps in virtual user mode is the guest's own affair
            JZ interpret
            JUMP reflect

interpret:  LOAD opcode
            SUB =LAST_OPCODE + 1
            JN known
            JUMP reflect        ; no instruction
known:      LOAD opcode
            TAX
            LOAD reserved - 4, x
            AND word
            JZ well_formed
            JUMP reflect        ; bits that must be zero are not
well_formed:
            LOAD word
            AND =address_mask
            STORE operand
            LOAD word
            SHR 12
            AND =1
            JZ not_indexed
            LOAD operand
            ADD saved_x
            AND =address_mask
            STORE operand
not_indexed:
            LOAD in_storage - 4, x
            JZ advance
            LOAD operand
            ADD v_l
            SUB =SIZE
            JN bounded
            JUMP reflect
bounded:    LOAD operand
            SUB v_b
            JN reached
            JUMP reflect
reached:    LOAD operand
            ADD v_l
            ADD =GUEST
            STORE real
            TAX
            LOAD 0, x
            STORE value
advance:    LOAD v_p
            ADD =1
            AND =address_mask
            STORE v_p
            LOAD opcode
            TAX
            JUMP routines - 4, x

routines:   JUMP do_load
            JUMP do_store
            JUMP do_ldi
            JUMP do_tax
            JUMP do_txa
            JUMP do_add
            JUMP do_sub
            JUMP do_and
            JUMP do_or
            JUMP do_shl
            JUMP do_shr
            JUMP do_jump
            JUMP do_jz
            JUMP do_jn
            JUMP do_jrst1

do_load:    LOAD value
            JUMP into_a
do_store:   LOAD real
            TAX
            LOAD saved_a
            STORE 0, x
            JUMP resume
do_ldi:     LOAD operand
            JUMP into_a
do_tax:     LOAD saved_a
            AND =address_mask
            STORE saved_x
            JUMP resume
do_txa:     LOAD saved_x
            JUMP into_a
do_add:     LOAD saved_a
            ADD value
            JUMP into_a
do_sub:     LOAD saved_a
            SUB value
            JUMP into_a
do_and:     LOAD saved_a
            AND value
            JUMP into_a
do_or:      LOAD saved_a
            OR value
            JUMP into_a
do_shl:     LOAD operand
            TAX
            LOAD saved_a
            SHL 0, x
            JUMP into_a
do_shr:     LOAD operand
            TAX
            LOAD saved_a
            SHR 0, x
into_a:     STORE saved_a
            JUMP resume

do_jz:      LOAD saved_a
            JZ do_jump
            JUMP resume
do_jn:      LOAD saved_a
            JN do_jump
            JUMP resume
do_jrst1:   LDI 1
            STORE v_m
do_jump:    LOAD operand
            STORE v_p
            JUMP resume

; By opcode, from 4 on: bits that must be zero, and whether the operand is a word of storage.
indexed = 0x1000
nothing_else = 0x1fff
reserved:   .word 0, 0, 0, nothing_else, nothing_else, indexed, indexed, indexed, indexed, 0, 0, 0, 0, 0, 0
in_storage: .word 1, 1, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0
real:       .word 0
value:      .word 0
