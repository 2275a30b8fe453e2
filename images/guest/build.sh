#!/bin/bash
# build.sh [--out DIR]: builds the test guest from the distribution's own packages; see README.md.
# Needs no root, no loop device and no network once the packages are in the cache.
set -euo pipefail
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)
out=$repository/.cache
if [ "${1:-}" = --out ]; then
    out=${2:?--out needs a directory}
    shift 2
fi
[ $# = 0 ] || { echo "usage: images/guest/build.sh [--out DIR]" >&2; exit 2; }
mkdir -p "$out"
out=$(cd "$out" && pwd)

SECTOR=512
DISK_SECTORS=$((1024 * 1024 * 1024 / SECTOR))   # the virtual size: 1 GiB
BOOT_START=2048                                 # sectors, as partition tools align it
BOOT_SECTORS=$((64 * 1024 * 1024 / SECTOR))
COMMAND_LINE="console=ttyS0 quiet loglevel=3 panic=5 scsi_mod.scan=sync memhp_default_state=online mitigations=off"
EPOCH=1704067200                                # every file's time stamp, so that equal inputs give equal images

# Drivers, by module name; what they depend on comes along, what the kernel has built in is skipped.
MODULES="virtio_pci virtio_blk virtio_scsi virtio_net virtio_console virtio_balloon virtio-rng sd_mod sr_mod cdrom
    ata_piix ata_generic ahci mptspi vmw_pvscsi e1000 e1000e vmxnet3 8139cp isofs vfat nls_cp437 nls_iso8859-1 nls_ascii
    nls_utf8 button evdev failover net_failover"

# One line per thing the image is made of: alternatives of a name that differ between Debian and Ubuntu, best first.
PACKAGES="busybox-static qemu-guest-agent dropbear-bin lua5.4 lua-yaml
    libc6 libglib2.0-0t64|libglib2.0-0 libpcre2-8-0 libudev1 libcap2 libnuma1 liburing2 zlib1g libcrypt1
    libtomcrypt1 libtommath1 libgmp10 libreadline8t64|libreadline8 libtinfo6 libyaml-0-2
    syslinux syslinux-common grub-common grub-efi-amd64-bin mtools libdevmapper1.02.1 libselinux1 liblzma5 libgcc-s1 libzstd1 zstd lz4 liblz4-1 libxxhash0"

started=${EPOCHREALTIME/./}
say() { printf '==> guest image: %s (%d.%d s)\n' "$*" $(((${EPOCHREALTIME/./} - started) / 1000000)) $(((${EPOCHREALTIME/./} - started) / 100000 % 10)); }
fail() { printf 'guest image: %s\n' "$*" >&2; exit 1; }

for tool in apt-get apt-cache dpkg-deb; do
    command -v $tool >/dev/null || fail "$tool is missing; the image is made of Debian or Ubuntu packages, so build it on Debian 12 or Ubuntu 24.04."
done
command -v qemu-img >/dev/null || fail "qemu-img is missing; it writes the qcow2 file. Install it: apt-get install qemu-utils"
[ "$(dpkg --print-architecture)" = amd64 ] || fail "this host is $(dpkg --print-architecture); the guest is built for amd64 only."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Which packages, in which versions? One line each: URI FILE SIZE HASH.
resolve() {
    local kernel names=() wanted name available
    kernel=$(apt-cache depends linux-image-cloud-amd64 linux-image-virtual 2>/dev/null |
        sed -n 's/^ *Depends: \(linux-image-[0-9][^ ]*\)$/\1/p' | head -n 1)
    [ -n "$kernel" ] || fail "apt knows no kernel package (linux-image-cloud-amd64 or linux-image-virtual); its lists are missing. Fetch them: apt-get update"
    names=("$kernel")
    available=$(apt-cache --generate pkgnames)
    [[ $kernel == *cloud* ]] || names+=("${kernel/linux-image-/linux-modules-}")
    for wanted in $PACKAGES; do
        for name in ${wanted//|/ }; do
            if [[ $'\n'$available$'\n' == *$'\n'$name$'\n'* ]]; then
                names+=("$name")
                continue 2
            fi
        done
        fail "apt knows no package ${wanted//|/ or }, which the guest needs; fetch its lists: apt-get update (on Ubuntu with 'universe' enabled)"
    done
    (cd "$work" && apt-get download --print-uris "${names[@]}" 2>"$work/apt.log") ||
        fail "apt cannot say where its packages are: $(tail -n 1 "$work/apt.log")"
}

# What apt would answer depends on its lists alone; asking takes a second, so the answer is kept.
lists=$(stat -c '%n %Y %s' /var/lib/apt/lists /var/lib/apt/lists/*_Packages* /var/lib/apt/lists/*_InRelease "${BASH_SOURCE[0]}" 2>/dev/null | sha256sum | cut -c 1-16)
mkdir -p "$out/guest/debs"
exec {lock}>"$out/guest/lock" # one build at a time; the lock goes with the process
flock "$lock"
answer=$out/guest/packages.$lists
if [ ! -s "$answer" ]; then
    resolve >"$work/packages"
    rm -f "$out"/guest/packages.*
    sort "$work/packages" >"$answer"
fi

inputs() {
    awk '{print $2, $4}' "$answer"
    (cd "$here" && find build.sh rootfs \( -type f -o -type l \) -print0 | sort -z | while IFS= read -r -d '' file; do
        printf '%s %s ' "$file" "$(stat -c %A "$file")"
        if [ -L "$file" ]; then readlink "$file"; else echo; fi
    done)
    (cd "$here" && find build.sh rootfs -type f -print0 | sort -z | xargs -0 sha256sum)
}
hash=$(inputs | sha256sum | cut -c 1-20)
image=$out/guest/$hash/virtrigaud-guest.qcow2

# publish: the stable name, in one rename, so that a reader never sees half an image.
publish() {
    mkdir -p "$out/images"
    if [ "$(cat "$out/images/virtrigaud-guest.hash" 2>/dev/null)" != "$hash" ] || [ ! -e "$out/images/virtrigaud-guest.qcow2" ]; then
        cp "$image" "$out/images/.new.$$"
        chmod 444 "$out/images/.new.$$"
        mv -f "$out/images/.new.$$" "$out/images/virtrigaud-guest.qcow2"
        cp "$image.sha256" "$out/images/virtrigaud-guest.qcow2.sha256"
        echo "$hash" >"$out/images/virtrigaud-guest.hash"
    fi
    say "$1"
    echo "$out/images/virtrigaud-guest.qcow2"
}
if [ -s "$image" ] && [ -s "$image.sha256" ]; then
    publish "up to date"
    exit 0
fi

# Download what the cache lacks; apt checks each file against the archive's signed hashes.
missing=()
while read -r _ file _; do
    [ -s "$out/guest/debs/$file" ] || missing+=("${file%%_*}")
done <"$answer"
if [ ${#missing[@]} -gt 0 ]; then
    say "downloading ${#missing[@]} packages"
    mkdir "$work/debs"
    (cd "$work/debs" && apt-get -qq -o APT::Sandbox::User= download "${missing[@]}" >"$work/apt.log" 2>&1) ||
        fail "cannot download the packages the guest is made of: $(grep -m 1 '^E:' "$work/apt.log" || tail -n 1 "$work/apt.log"). Check the network, then: apt-get update"
    mv "$work/debs"/*.deb "$out/guest/debs/"
fi

say "unpacking"
tree=$work/tree
mkdir "$tree"
while read -r _ file _; do
    dpkg-deb --fsys-tarfile "$out/guest/debs/$file" |
        tar -x -C "$tree" --no-same-owner --exclude='./usr/share/doc' --exclude='./usr/share/man' --exclude='./usr/share/locale'
done < <(sed "s/'//g" "$answer")

# Host tools come out of the packages too, with their own loader and libraries: nothing has to be installed.
loader=$(find "$tree" -name 'ld-linux-x86-64.so.2' | head -n 1)
libraries=$tree/lib/x86_64-linux-gnu:$tree/usr/lib/x86_64-linux-gnu
packaged() {
    local tool=$1
    shift
    "$loader" --library-path "$libraries" "$tool" "$@"
}
first() { # first NAME: where the package tree has it
    local found
    found=$(find "$tree" \( -type f -o -type l \) -path "*/$1" | head -n 1)
    [ -n "$found" ] || fail "no file $1 in the packages; this distribution is laid out in a way the build does not know."
    echo "$found"
}
busybox=$(first bin/busybox)

say "root file system"
root=$work/root
mkdir -p "$root"/{bin,sbin,dev,proc,sys,run,tmp,root,etc,lib64,home,mnt,usr/{bin,sbin,lib},lib/modules}
cp -a "$busybox" "$root/bin/busybox"
for applet in $("$busybox" --list); do
    [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done
ln -s bin/busybox "$root/init" # the kernel starts /init; busybox goes by that name
for program in sbin/qemu-ga sbin/dropbear bin/lua5.4; do
    cp -L "$(first "$program")" "$root/usr/$program"
done
mkdir -p "$root/usr/share/lua/5.4" "$root/usr/lib/x86_64-linux-gnu/lua/5.4" "$root/lib/x86_64-linux-gnu" "$root/etc/dropbear"
cp -rL "$(dirname "$(first share/lua/5.4/lyaml/init.lua)")" "$root/usr/share/lua/5.4/"
cp -L "$(first x86_64-linux-gnu/lua/5.4/yaml.so)" "$root/usr/lib/x86_64-linux-gnu/lua/5.4/"
cp -L "$loader" "$root/lib64/ld-linux-x86-64.so.2"
for program in "$root"/usr/sbin/qemu-ga "$root"/usr/sbin/dropbear "$root"/usr/bin/lua5.4 "$root"/usr/lib/x86_64-linux-gnu/lua/5.4/yaml.so; do
    needed=$("$loader" --library-path "$libraries" --list "$program") || fail "libraries of ${program##*/} are missing: $needed"
    awk '$2 == "=>" {print $3}' <<<"$needed" | while read -r library; do
        cp -L "$library" "$root/lib/x86_64-linux-gnu/"
    done
done
cp -a "$here/rootfs/." "$root/"
for script in shutdown poweroff reboot halt; do rm -f "$root/bin/$script"; done # ours, in /sbin, not busybox's

say "kernel modules"
version=$(basename "$(find "$tree" -type d -path '*/lib/modules/*' -prune | head -n 1)")
modules=$(find "$tree" -type d -path "*/lib/modules/$version" -prune | head -n 1)
find "$modules" -name '*.ko*' >"$work/modules"
module() { # module NAME: puts it, after what it needs, into the root and into the load order
    local name=${1//-/_} file plain needs
    grep -q "^$name\.ko" "$root/lib/modules/order" 2>/dev/null && return
    file=$(grep -E "/${name//_/[_-]}\.ko(\.(zst|xz))?$" "$work/modules" | head -n 1) || true
    [ -n "$file" ] || return 0 # built into the kernel, or this kernel has none
    plain=$root/lib/modules/$name.ko
    case $file in
        *.zst) packaged "$(first bin/zstd)" -qdc "$file" >"$plain" ;;
        *.xz) "$busybox" xzcat "$file" >"$plain" ;;
        *) cp "$file" "$plain" ;;
    esac
    needs=$(tr '\0' '\n' <"$plain" | sed -n 's/^depends=//p' | head -n 1)
    for need in ${needs//,/ }; do module "$need"; done
    # Disks and CDs are to be there when insmod returns: nothing in the guest waits for them.
    case $name in
        scsi_mod) echo "$name.ko scan=sync" ;;
        *) echo "$name.ko" ;;
    esac >>"$root/lib/modules/order"
}
for name in $MODULES; do module "$name"; done

say "initramfs"
find "$root" -exec touch -h -d "@$EPOCH" {} +
# LZ4: reading costs the boot loader more, under emulation, than unpacking costs the kernel.
(cd "$root" && find . | sort | "$busybox" cpio -o -H newc -R 0:0 --renumber-inodes --ignore-devno 2>/dev/null) >"$work/initrd.cpio"
packaged "$(first bin/lz4)" -q -l -12 "$work/initrd.cpio" "$work/initrd"
kernel=$(find "$tree" -name "vmlinuz-$version" | head -n 1)

say "disk"
disk=$work/disk.raw
truncate -s $((DISK_SECTORS * SECTOR)) "$disk"
export SOURCE_DATE_EPOCH=$EPOCH MTOOLS_SKIP_CHECK=1 MTOOLSRC=/dev/null
mtool() { packaged "$(first bin/mtools)" -c "$@"; }
fat="$disk@@$((BOOT_START * SECTOR))"
mtool mformat -i "$fat" -c 64 -v GUEST -N 56524744 -T $BOOT_SECTORS -h 64 -s 32 -H $BOOT_START ::
mtool mmd -i "$fat" ::/EFI ::/EFI/BOOT
touch -d "@$EPOCH" "$work/initrd"
cp "$kernel" "$work/vmlinuz"
touch -d "@$EPOCH" "$work/vmlinuz"
mtool mcopy -m -i "$fat" "$work/vmlinuz" "$work/initrd" ::/

# UEFI: GRUB as \EFI\BOOT\BOOTX64.EFI. BIOS: SYSLINUX, which loads in one second what takes GRUB four under emulation.
printf '%s\n' 'search.file /vmlinuz root' "linux /vmlinuz $COMMAND_LINE" 'initrd /initrd' boot >"$work/grub.cfg"
packaged "$(first bin/grub-mkimage)" -O x86_64-efi -d "$(dirname "$(first grub/x86_64-efi/linux.mod)")" -p /grub \
    -c "$work/grub.cfg" \
    -o "$work/bootx64.efi" part_msdos fat search_fs_file linux boot
printf '%s\n' 'DEFAULT guest' 'PROMPT 0' 'LABEL guest' 'LINUX /vmlinuz' 'INITRD /initrd' "APPEND $COMMAND_LINE" >"$work/syslinux.cfg"
cp "$(first modules/bios/ldlinux.c32)" "$work/ldlinux.c32"
touch -d "@$EPOCH" "$work"/{bootx64.efi,syslinux.cfg,ldlinux.c32}
mtool mcopy -m -i "$fat" "$work/bootx64.efi" ::/EFI/BOOT/BOOTX64.EFI
mtool mcopy -m -i "$fat" "$work/syslinux.cfg" ::/
printf '#!/bin/sh\nexec "%s" --library-path "%s" "%s" -c "$@"\n' "$loader" "$libraries" "$(first bin/mtools)" >"$work/mtools"
chmod +x "$work/mtools"
for name in mcopy mattrib mmove; do # the installer calls them by these names
    printf '#!/bin/sh\nexec "%s" %s "$@"\n' "$work/mtools" $name >"$work/$name"
    chmod +x "$work/$name"
done
PATH="$work:$PATH" packaged "$(first bin/syslinux)" --install -t $((BOOT_START * SECTOR)) "$disk"
mtool mcopy -m -o -i "$fat" "$work/ldlinux.c32" ::/
dd if="$(first mbr/mbr.bin)" of="$disk" bs=440 count=1 conv=notrunc status=none
le32() { printf '\\x%02x\\x%02x\\x%02x\\x%02x' $(($1 & 255)) $(($1 >> 8 & 255)) $(($1 >> 16 & 255)) $(($1 >> 24 & 255)); }
# The partition table: disk signature, one bootable entry of type EF (EFI system) without CHS, 55 AA.
printf '%b' "$(le32 0x56524744)\x00\x00\x80\xfe\xff\xff\xef\xfe\xff\xff$(le32 $BOOT_START)$(le32 $BOOT_SECTORS)" |
    dd of="$disk" bs=1 seek=440 conv=notrunc status=none
printf '\x55\xaa' | dd of="$disk" bs=1 seek=510 conv=notrunc status=none

mkdir -p "$out/guest/$hash"
qemu-img convert -c -f raw -O qcow2 "$disk" "$out/guest/$hash/.new.$$"
(cd "$out/guest/$hash" && mv ".new.$$" virtrigaud-guest.qcow2 && sha256sum virtrigaud-guest.qcow2 >virtrigaud-guest.qcow2.sha256)
# The cache keeps three builds, and the packages of the last.
find "$out/guest" -mindepth 1 -maxdepth 1 -type d ! -name debs -printf '%T@ %p\n' | sort -rn | tail -n +4 | cut -d ' ' -f 2- |
    xargs -r -d '\n' rm -rf
awk '{print $2}' "$answer" | sort >"$work/wanted"
find "$out/guest/debs" -name '*.deb' -printf '%f\n' | sort | comm -23 - "$work/wanted" | (cd "$out/guest/debs" && xargs -r -d '\n' rm -f)
publish "built $hash, $(($(stat -c %s "$image") / 1024 / 1024)) MiB"
