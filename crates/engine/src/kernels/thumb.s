@ Tiles of a matrix that share their activations, by Thumb-2. thumb.rs has the words for what this reads and writes, and build.rs
@ sets ARM_DSP and SOFT_F32 to what the target has.
@
@ While cells are multiplied: r0 cells, r1 activations of the last of four places, r2 what is left of the mask's word, r3 a
@ weight, r4 to r7 sums, r8 to r11 activations of one place, r12 the mask's other word, lr the table of cases.

    .syntax unified
    .thumb

@ Offsets of `Run`, of which there is a copy on the stack, and behind it where it came from. In the copy, X is that of place 3.
    .equ X_SCALE, 0
    .equ X_EXPONENT, 4
    .equ RECORD, 8
    .equ OUT, 12
    .equ ONE, 16
    .equ OUT_END, 20
    .equ LAST, 24
    .equ CELLS, 28
    .equ END, 32
    .equ BEYOND_HIGH, 36
    .equ BEYOND, 40
    .equ X, 44
    .equ RUN, 48

.if ARM_DSP
@ Two products of 16 bits an instruction: of bytes 0 and 2 of four, then of bytes 1 and 3.
    .macro row sum
    ldr r3, [r0], #4
    sxtb16 r10, r3
    sxtb16 r3, r3, ror #8
    smlad \sum, r10, r8, \sum
    smlad \sum, r3, r9, \sum
    .endm

    .macro load place
    .if \place == 3
    ldr r9, [r1], #16
    .else
    ldr r9, [r1, #4 * \place - 12]
    .endif
    sxtb16 r8, r9
    sxtb16 r9, r9, ror #8
    .endm
.else
    .macro row sum
    .irp x, r8, r9, r10, r11
    ldrsb r3, [r0], #1
    mla \sum, r3, \x, \sum
    .endr
    .endm

    .macro load place
    ldrsb r9, [r1, #4 * \place - 11]
    ldrsb r10, [r1, #4 * \place - 10]
    ldrsb r11, [r1, #4 * \place - 9]
    .if \place == 3
    ldrsb r8, [r1], #16
    .else
    ldrsb r8, [r1, #4 * \place - 12]
    .endif
    .endm
.endif

@ A cell at one of the four places; the last goes on to the next four.
    .macro cell place
    load \place
    row r4
    row r5
    row r6
    row r7
    .endm

@ Goes to the case of four places.
    .macro case
    and r3, r2, #15
    lsrs r2, r2, #4
    ldr pc, [lr, r3, lsl #2]
    .endm

@ The same after a case without place 3.
    .macro next
    add r1, r1, #16
    case
    .endm

@ The ones of a word in each pair of its bits, added up in each nibble.
    .macro nibbles word
    and r11, r8, \word, lsr #1
    subs \word, \word, r11
    and r11, r9, \word, lsr #2
    and \word, \word, r9
    add \word, \word, r11
    .endm

.if SOFT_F32
@ `usual` in scaled.rs for one output, in its sum's place. r1 significand and r9 exponent of the activations' scale, r8 exponent of
@ the product and, above it, the sign, r10 at the record, r12 one. The first product is rounded where it is: half of the last
@ place less one, and one more if that place is odd, carry into it for whatever is to be rounded up.
    .macro finish sum, scale:vararg
    ldrh r2, \scale
    add r8, r9, r2, lsr #7
    bfi r2, r12, #7, #25
    muls r2, r1, r2
    bpl .Lshort\@
    lsls r3, r2, #24
    adc r2, r2, #0x7F
    bic r2, r2, #0xFF
.Lrounded\@:
    clz r3, \sum
    cbnz r3, .Lpositive\@
    rsbs \sum, \sum, #0
    add r8, r8, #0x100
    clz r3, \sum
.Lpositive\@:
    lsls \sum, \sum, r3
    sub r8, r8, r3
    umull r2, r3, r2, \sum
    @ At most two bits are missing at the lower end then, far below those that count one by one.
    clz \sum, r3
    lsls r3, r3, \sum
    sub r8, r8, \sum
    orrs r2, r2, r3, lsl #25
    beq .Lhalf\@
    lsrs r3, r3, #8
    adc \sum, r3, r8, lsl #23
.Lproduct\@:
    .pushsection .text.pageformer_thumb_multiply, 1
.Lshort\@:
    lsls r3, r2, #25
    adc r2, r2, #0x3F
    bic r2, r2, #0x7F
    b .Lrounded\@
.Lhalf\@:
    @ A half, or nothing, is cut off.
    lsrs \sum, r3, #8
    beq .Lproduct\@
    bcc .Lexact\@
    and r2, \sum, #1
    add \sum, \sum, r2
.Lexact\@:
    add \sum, \sum, r8, lsl #23
    b .Lproduct\@
    .popsection
    .endm
.else
    .fpu fpv4-sp-d16
.endif

    .section .text.pageformer_thumb_multiply, "ax", %progbits
    .global pageformer_thumb_multiply
    .type pageformer_thumb_multiply, %function
    .thumb_func
    .p2align 2
pageformer_thumb_multiply:
    push {r0, r4-r11, lr}
    ldm r0, {r1-r12}
    add r12, r12, #12
    push {r1-r12}
    mov r10, r3
    mov r0, r8
    adr.w lr, cases
    cbnz r1, scaled
    adr.w lr, cases_of_sums
scaled:
    cmp r0, r7
    bhi count
tile:
    @ r10 is at the record: four scales, the mask's two words.
    ldm r10, {r4, r5, r8, r12}
    @ Whether the mask has only bits for places that there are; its second word is looked at if there is one. What is compared
    @ is zero then, as sums are to be.
    ldrd r6, r1, [sp, #BEYOND]
    ands r6, r6, r8
.if SOFT_F32
    @ And whether the weights' scales are usual.
    eor r4, r4, #0x20002000
    eor r5, r5, #0x20002000
    orrs r4, r4, r5
    and r4, r4, #0xE000E000
    orrs r5, r4, r6
    bne return
.else
    bne return
    movs r4, #0
    movs r5, #0
.endif
    movs r7, #0
    and r3, r8, #15
    lsrs r2, r8, #4
    ldr pc, [lr, r3, lsl #2]

    @ Bit 0 of an address stands for Thumb code.
    .macro cases none
    .word \none + 1, place_0 + 1, place_1 + 1, place_01 + 1, place_2 + 1, place_02 + 1, place_12 + 1, place_012 + 1
    .word place_3 + 1, place_03 + 1, place_13 + 1, place_013 + 1, place_23 + 1, place_023 + 1, place_123 + 1, place_0123 + 1
    .endm

    .p2align 2
cases:
    cases place_
cases_of_sums:
    cases place_of_sums

    @ A case is the end of another one where it can be, and jumps there where a copy would take too much flash.
place_0123:
    cell 0
place_123:
    cell 1
place_23:
    cell 2
place_3:
    cell 3
    case
place_012:
    cell 0
place_12:
    cell 1
place_2:
    cell 2
    next
place_01:
    cell 0
place_1:
    cell 1
    next
place_0:
    cell 0
    next
place_013:
    cell 0
place_13:
    cell 1
    cell 3
    case
place_023:
    cell 0
    b place_23
place_03:
    cell 0
    cell 3
    case
place_02:
    cell 0
    b place_2
place_:
    @ The flags are those of the shift: nothing is left of the word.
    beq word
    next

word:
    movs r2, r12
    beq finished
    ldr r1, [sp, #BEYOND_HIGH]
    tst r1, r12
    bne leave
second_word:
    ldr r1, [sp, #X]
    mov r12, #0
    add r1, r1, #128
    case

place_of_sums:
    beq word_of_sums
    next

    @ What is wanted of this tile, the only one, are its sums.
word_of_sums:
    movs r2, r12
    bne second_word
    ldr r11, [sp, #OUT]
    stm r11, {r4-r7}
    b return

finished:
    @ X_SCALE, X_EXPONENT, RECORD, OUT, ONE
    ldm sp, {r1, r9-r12}
.if SOFT_F32
    finish r5, [r10, #2]
    finish r6, [r10, #4]
    finish r7, [r10, #6]
    @ And on to the next record.
    finish r4, [r10], #16
    stm r11!, {r4-r7}
.else
    vmov s0, r1
    @ A bf16 is the upper half of an f32.
    ldr r3, [r10, #4]
    ldr r1, [r10], #16
    lsl r2, r1, #16
    bfc r1, #0, #16
    lsl r8, r3, #16
    bfc r3, #0, #16
    vmov s4, s5, r2, r1
    vmov s6, s7, r8, r3
    vmov s8, s9, r4, r5
    vmov s10, s11, r6, r7
    vmul.f32 s4, s0, s4
    vmul.f32 s5, s0, s5
    vmul.f32 s6, s0, s6
    vmul.f32 s7, s0, s7
    vcvt.f32.s32 s8, s8
    vcvt.f32.s32 s9, s9
    vcvt.f32.s32 s10, s10
    vcvt.f32.s32 s11, s11
    vmul.f32 s4, s4, s8
    vmul.f32 s5, s5, s9
    vmul.f32 s6, s6, s10
    vmul.f32 s7, s7, s11
    vstmia r11!, {s4-s7}
.endif
ended:
    strd r10, r11, [sp, #RECORD]
    ldrd r1, r2, [sp, #OUT_END]
    cmp r11, r1
    beq return
    cmp r0, r2
    bls tile

count:
    @ Whether the next tile's cells are there.
    ldrd r4, r5, [r10, #8]
    mov r8, #0x55555555
    mov r9, #0x33333333
    nibbles r4
    cbz r5, counted_nibbles
    nibbles r5
    adds r4, r4, r5
counted_nibbles:
    mov r9, #0x0F0F0F0F
    and r5, r9, r4, lsr #4
    and r4, r4, r9
    add r4, r4, r5
    mov r9, #0x01010101
    mul r4, r4, r9
    lsrs r4, r4, #24
    ldr r5, [sp, #END]
    add r4, r0, r4, lsl #4
    cmp r4, r5
    bls tile

return:
    ldr r1, [sp, #RUN]
    ldr r2, [sp, #RECORD]
    str r2, [r1, #RECORD]
    str r0, [r1, #CELLS]
leave:
    @ From a tile whose mask is damaged: as if nothing had been done.
    add sp, #52
    pop {r4-r11, pc}

    .section .text.pageformer_thumb_ones, "ax", %progbits
    .global pageformer_thumb_ones
    .type pageformer_thumb_ones, %function
    .thumb_func
    .p2align 2
pageformer_thumb_ones:
    push {r4-r11, lr}
    mov r8, #0x55555555
    mov r9, #0x33333333
    mov r10, #0x0F0F0F0F
    mov r12, #0
    movs r6, #0
    movs r7, #0
    adds r0, r0, #8
    @ A byte of sums holds what 15 masks have: each has at most 16 ones in two bytes.
some_masks:
    cbz r1, counted
    mov r3, r1
    cmp r3, #15
    it hi
    movhi r3, #15
    subs r1, r1, r3
    mov lr, #0
mask:
    ldrd r4, r5, [r0], #16
    orrs r6, r6, r4
    orrs r7, r7, r5
    nibbles r4
    @ Tiles of up to 128 inputs have no more.
    cbz r5, half_a_mask
    nibbles r5
    adds r4, r4, r5
half_a_mask:
    and r11, r10, r4, lsr #4
    and r4, r4, r10
    add r4, r4, r11
    add lr, lr, r4
    subs r3, r3, #1
    bne mask
    and r4, lr, #0x00FF00FF
    bic lr, lr, #0x00FF00FF
    add r12, r12, r4
    add r12, r12, lr, lsr #8
    b some_masks
counted:
    strd r6, r7, [r2]
    uxth r0, r12
    add r0, r0, r12, lsr #16
    pop {r4-r11, pc}
