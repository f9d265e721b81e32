#!/usr/bin/env bash
# Fetches Debian's kernels, BusyBox and memtest86+, which the long tests and `make bench` boot where they are present.
#
#   fetch-real-systems.sh [DIRECTORY]   default: .cache/real-systems, which git ignores
#
# The packages come through apt, from this system's own sources and with its signatures checked, by lists and a cache of their
# own: nothing is installed, and the system's lists and architectures stay as they are. Needs Debian's apt-get and dpkg-deb, and 90 MB of downloads.
set -euo pipefail

directory=$(realpath -m "${1:-.cache/real-systems}")
work=$directory/apt

apt_for() {
    local architecture=$1
    shift
    APT_CONFIG=$work/$architecture/apt.conf "$@"
}

prepare() {
    local architecture=$1 at=$work/$1
    mkdir -p "$at"/{lists/partial,cache/archives/partial}
    cat >"$at/apt.conf" <<CONF
APT::Architecture "$architecture";
APT::Architectures { "$architecture"; };
APT::Sandbox::User "root";
Dir::State::Lists "$at/lists";
Dir::State::Status "/dev/null";
Dir::Cache "$at/cache";
CONF
    apt_for "$architecture" apt-get update -qq || true # a source that is not Debian's may lack the architecture
}

# The package that a metapackage stands for: the first of its dependencies.
newest() {
    apt_for "$1" apt-cache depends "$2" | sed -n 's/^ *Depends: //p' | head -1
}

# Downloads a package and unpacks it; prints the directory.
unpacked() {
    local architecture=$1 package=$2 at=$work/$1/$2
    if [[ ! -d $at ]]; then
        (cd "$work/$architecture" && apt_for "$architecture" apt-get download -qq "$package" >&2)
        dpkg-deb -x "$work/$architecture/${package}"_*.deb "$at.partial"
        mv "$at.partial" "$at"
        rm -f "$work/$architecture/${package}"_*.deb
    fi
    echo "$at"
}

kernel() {
    local architecture=$1 flavour=$2 at
    at=$(unpacked "$architecture" "$(newest "$architecture" "linux-image-$flavour")")
    cp "$at"/boot/vmlinuz-* "$directory/vmlinuz-$flavour"
    mkdir -p "$directory/modules-$flavour"
    find "$at/lib/modules" -name 'virtio*.ko' -exec cp {} "$directory/modules-$flavour/" \;
}

busybox() {
    cp "$(unpacked "$1" busybox-static)/bin/busybox" "$directory/busybox-$1"
}

prepare amd64
prepare i386
kernel amd64 cloud-amd64
kernel i386 686
busybox amd64
busybox i386
cp "$(unpacked amd64 memtest86+)"/boot/memtest86+*.bin "$directory/"
rm -rf "$work"
date -u >"$directory/fetched"
echo "fetched into $directory: $(cd "$directory" && ls | tr '\n' ' ')" >&2
