#!/usr/bin/env bash
# Debian packages that some tests and `make bench` use where they are present; without them those tests are skipped.
#
#   apt-packages.sh list   print their names
#   apt-packages.sh try    install what is missing, if root and apt-get are there; say so and go on if not
#   apt-packages.sh install   install what is missing, or fail
set -euo pipefail

# Each package with the program or file by which it is found.
packages=(
    "qemu-system-x86 qemu-system-i386" # a second implementation of the PC, to compare devices and guests with
    "gdb gdb"                          # reads the state of a guest under QEMU
    "gcc gcc"                          # with binutils, the other toolchain of `simvirt build`
    "acpica-tools iasl"                # reads the firmware's ACPI tables
    "zsh zsh"                          # shells that simvirt has completions for
    "fish fish"
    "grub-common grub-mkimage"         # boot loaders for disks that the PC's firmware starts
    "grub-pc-bin /usr/lib/grub/i386-pc/boot.img"
    "syslinux syslinux"
    "syslinux-common /usr/lib/syslinux/modules/bios/meminfo.c32"
    "dosfstools /sbin/mkfs.fat"
    "mtools mcopy"
)

missing() {
    local entry
    for entry in "${packages[@]}"; do
        [[ -e "${entry#* }" ]] || command -v "${entry#* }" >/dev/null || echo "${entry% *}"
    done
}

install() {
    export DEBIAN_FRONTEND=noninteractive
    timeout 900 apt-get update -qq && timeout 900 apt-get install -y -qq --no-install-recommends "$@"
}

case ${1:-list} in
list) printf '%s\n' "${packages[@]% *}" ;;
install | try)
    mapfile -t wanted < <(missing)
    if ((${#wanted[@]} == 0)); then
        exit 0
    elif [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null && install "${wanted[@]}" >/dev/null; then
        echo "installed for the tests: ${wanted[*]}" >&2
    else
        echo "not installed, tests that use them are skipped: ${wanted[*]} (as root: scripts/apt-packages.sh install)" >&2
        [[ $1 == try ]]
    fi
    ;;
*)
    echo "usage: apt-packages.sh list|try|install" >&2
    exit 2
    ;;
esac
