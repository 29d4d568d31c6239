# SPDX-License-Identifier: Apache-2.0
#
# A whole guest in one boot sector, for `sandbox up --hypervisor libvirt`.
#
# It keeps one record in the second sector of its disk, and writes it anew every second:
#
#   SANDBOXGUEST boots=0001 beats=000042 rtc=20261120094512 state=up
#
# At each boot it writes 1 MiB of noise, another each time, from sector 2048 on, and the record to
# its serial console. On the ACPI power button it writes state=off and powers off. So whoever has a
# copy of its disk can tell how often the guest had booted, when it last wrote, and whether it had
# been shut down.
#
# QEMU's machine `pc`, SeaBIOS: ports of its PIIX4 power management are at 0x600.

        .intel_syntax noprefix
        .code16
        .set record, 0x8000
        .globl _start

_start: ljmp 0, offset start
start:  cli
        xor ax, ax
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov sp, 0x7c00
        sti
        cld
        mov [drive], dl
        mov ax, 0x00e3                      # COM1: 9600 8n1
        xor dx, dx
        int 0x14
        in al, 0xa1                         # mask IRQ 9 (SCI): the button is polled
        or al, 2
        out 0xa1, al
        mov dx, 0x600                       # PM1_STS: clear it; PM1_EN: the power button
        mov ax, 0x0100
        out dx, ax
        mov dx, 0x602
        out dx, ax

        mov ah, 0x42                        # read the record
        call on_record
        cmp byte ptr [record], 0
        jne 1f
        mov si, offset template             # first boot: the sector was all zeroes
        mov di, record
        mov cx, offset template_end - template
        rep movsb
1:      mov di, record + 22                 # last digit of boots
        call increment
        mov word ptr [record + 62], 0x7075  # "up"
        mov byte ptr [record + 64], 0x20

        mov ax, 0x1000                      # noise: 32 writes of 64 sectors
        mov es, ax
        mov bx, 0xace1
        add bx, [0x046c]                    # the BIOS' ticks: differ between boots
        mov word ptr [sector], 2048
        mov word ptr [count], 64
        mov word ptr [buffer], 0
        mov word ptr [segment], 0x1000
        mov bp, 32
2:      xor di, di
        mov cx, 16384
3:      mov ax, bx                          # xorshift of 16 bits
        shl ax, 7
        xor bx, ax
        mov ax, bx
        shr ax, 9
        xor bx, ax
        mov ax, bx
        shl ax, 8
        xor bx, ax
        mov ax, bx
        stosw
        loop 3b
        mov ah, 0x43
        call transfer
        add word ptr [sector], 64
        dec bp
        jnz 2b
        xor ax, ax
        mov es, ax
        call save
        call print

beat:   mov bx, [0x046c]
4:      hlt
        mov dx, 0x600
        in ax, dx
        test ah, 1
        jnz off
        mov ax, [0x046c]
        sub ax, bx
        cmp ax, 18                          # ticks in a second
        jb 4b
        mov di, record + 35                 # last digit of beats
        call increment
        call save
        jmp beat

off:    mov word ptr [record + 62], 0x666f  # "of"
        mov byte ptr [record + 64], 0x66    # "f"
        call save
        call print
        mov dx, 0x604                       # S5
        mov ax, 0x2000
        out dx, ax
        jmp .

save:   mov si, offset clock                # the time, two digits a register, then the record
        mov di, record + 43
5:      lodsb
        cmp al, 0xff
        je 6f
        out 0x70, al
        in al, 0x71
        mov ah, al
        shr al, 4
        add al, 0x30
        stosb
        mov al, ah
        and al, 15
        add al, 0x30
        stosb
        jmp 5b
6:      mov ah, 0x43
on_record:
        mov word ptr [sector], 1
        mov word ptr [count], 1
        mov word ptr [buffer], record
        mov word ptr [segment], 0
transfer:                                   # ah: 0x42 reads, 0x43 writes
        pusha
        push es
        mov al, 0
        mov dl, [drive]
        mov si, offset packet
        int 0x13
        pop es
        popa
        ret

increment:                                  # the decimal number whose last digit is at di
        inc byte ptr [di]
        cmp byte ptr [di], 0x3a
        jb 7f
        mov byte ptr [di], 0x30
        dec di
        jmp increment
7:      ret

print:  mov si, record
8:      lodsb
        mov ah, 1
        xor dx, dx
        push ax
        int 0x14
        pop ax
        cmp al, 10
        jne 8b
        ret

clock:  .byte 9, 8, 7, 4, 2, 0, 0xff        # year, month, day, hour, minute, second
template:
        .ascii "SANDBOXGUEST boots=0000 beats=000000 rtc=20------------ state=up  \n"
template_end:
drive:  .byte 0
packet: .byte 16, 0
count:  .word 0
buffer: .word 0
segment: .word 0
sector: .word 0, 0, 0, 0

        .org 446                            # Glance refuses a disk without a partition
        .byte 0x80, 0, 2, 0, 0x83, 0, 0, 0
        .long 1, 8191
        .org 510
        .word 0xaa55
