#!/usr/bin/env bash
# run.sh: a Debian goes from form to form, and has to start at each stop.
#
#   VMware's directory -> OVA -> libvirt's directory -> XVA -> VMware's directory, and a script for QEMU
#
# At each stop the disk is compared with the one that it all began with, by tarvm and by qemu-img, and the guest is
# started under QEMU from what was written: its own kernel, taken out of that disk, has to get to the login prompt on
# the serial console. QEMU changes nothing (-snapshot). The disks of the OVA and the XVA are taken out with tar, not with
# tarvm. The last stop is started by the script that tarvm wrote, once more without a kernel given if there is a boot
# loader on the disk: through the BIOS.
#
#   VM=/var/tmp/vm   its state S1 is the guest; made by testdata/vm/make.sh when it is not there; never written to
#   TARVM=bin/tarvm  ACCEL=tcg (or kvm, where that works)  WAIT=600 seconds for a start  SCRATCH=/var/tmp (6 GB)
#   STOPS="ova libvirt xva vmx qemu bios": which are started; all are written and compared
#   KEEP=1 keeps what was written, and the consoles
#
# Exit code 0: all have started; 77: there is no guest to start here, or no QEMU.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "$0")/../.."
VM=${VM:-/var/tmp/vm} WAIT=${WAIT:-600} STOPS=${STOPS:-ova libvirt xva vmx qemu bios}
export ACCEL=${ACCEL:-tcg}
say() { printf 'boot: [%4d s] %s\n' $SECONDS "$*" >&2; }
die() { say "$*"; exit 1; }
skip() { say "SKIPPED: $*"; exit 77; }

PATH=$PATH:/usr/sbin:/sbin # debugfs, sfdisk
for t in qemu-system-x86_64 qemu-img debugfs sfdisk tar; do
  command -v $t >/dev/null || skip "$t is not installed"
done
tarvm=$(realpath "${TARVM:-bin/tarvm}" 2>/dev/null) || tarvm=''
[ -x "$tarvm" ] || die "no program at ${TARVM:-bin/tarvm}: run make build"
[ -e "$VM/S1" ] || { say "no S1 in $VM: making it"; testdata/vm/make.sh "$VM" || skip "no VM to start"; }
source=$(realpath "$VM/S1")

T=$(mktemp -d "${SCRATCH:-/var/tmp}/tarvm-boot.XXXXXX")
qemu=''
# shellcheck disable=SC2317 # the trap calls it
finish() {
  local rc=$?
  [ -z "$qemu" ] || kill "$qemu" 2>/dev/null || true
  if [ "${KEEP:-}" = 1 ]; then
    say "kept: $T"
  else
    rm -rf "$T"
  fi
  exit $rc
}
trap finish EXIT
trap 'exit 130' INT TERM
sh() {
  say "\$ $*"
  "$@"
}

# lift FILE FORMAT takes the kernel and the initrd out of a disk, as T/vmlinuz and T/initrd, and sets root to the file
# system's UUID and loader to 1 if the disk starts by itself.
lift() {
  local raw=$T/lift.raw start fs f to
  rm -f "$raw" "$T/vmlinuz" "$T/initrd"
  "$tarvm" image convert -q "$1" "$raw" -f "$2" -O raw
  start=$(sfdisk -q -l -o start "$raw" | awk 'NR > 1 { print $1; exit }')
  fs="$raw?offset=$((start * 512))"
  root=$(debugfs -R 'show_super_stats -h' "$fs" 2>/dev/null | awk '/^Filesystem UUID:/ { print $3 }')
  for f in vmlinuz initrd.img; do
    to=$(debugfs -R 'ls -p /boot' "$fs" 2>/dev/null | awk -F/ -v f="$f-" 'index($6, f) == 1 { print $6 }' | tail -n 1)
    debugfs -R "dump /boot/$to $T/${f%.img}" "$fs" >/dev/null 2>&1
    [ -s "$T/${f%.img}" ] || { say "there is no /boot/$f-* on the disk"; return 1; }
  done
  loader=0
  if debugfs -R 'stat /boot/extlinux/ldlinux.sys' "$fs" 2>/dev/null | grep -q '^Inode'; then loader=1; fi
  rm "$raw"
}

# started NAME PROGRAM ARGUMENTS...: runs QEMU and waits for the login prompt.
started() {
  local name=$1 console=$T/$1.console until=$((SECONDS + WAIT)) began=$SECONDS
  shift
  "$@" -snapshot -nographic -monitor none -no-reboot -serial "file:$console" >"$T/$name.qemu" 2>&1 </dev/null &
  qemu=$!
  until grep -aq ' login:' "$console" 2>/dev/null; do
    kill -0 "$qemu" 2>/dev/null || { qemu=''; die "$name: QEMU has ended: $(tail -n 2 "$T/$name.qemu"); $(tail -c 300 "$console" | tr -d '\r')"; }
    [ $SECONDS -lt $until ] || die "$name: no login prompt within $WAIT s; the console ends: $(tail -c 300 "$console" | tr -d '\r')"
    sleep 1
  done
  kill "$qemu"
  wait "$qemu" || true
  qemu=''
  rows+=("$name: started in $((SECONDS - began)) s: $(grep -a ' login:' "$console" | head -n 1 | tr -d '\r')")
  say "${rows[-1]}"
}

# stop NAME FILE FORMAT START...: compares a disk with the source's, and has START start it.
rows=()
stop() {
  local name=$1 disk=$2 format=$3 append
  sh "$tarvm" image compare -q "$source/vm.vmdk" "$disk"
  sh qemu-img compare -q -f vmdk -F "$format" "$source/vm.vmdk" "$disk" || die "$name: qemu-img sees another disk"
  [[ " $STOPS " == *" $name "* ]] || return 0
  lift "$disk" "$format"
  append="root=UUID=$root ro net.ifnames=0 console=ttyS0 systemd.default_timeout_start_sec=$WAIT"
  started "$name" "${@:4}" -kernel "$T/vmlinuz" -initrd "$T/initrd" -append "$append"
}

# machine CONTROLLER FILE FORMAT: QEMU with a disk on a controller of this kind; CONTROLLER is what the machine's
# description at the stop says.
machine() {
  plain=(qemu-system-x86_64 -machine pc -accel "$ACCEL" -cpu max -smp 2 -m 512 -nodefaults
    -drive "if=none,id=disk,file=$2,format=$3" -device "$1,id=bus" -device "${4:-scsi-hd,bus=bus.0},drive=disk")
}

say "The OVA."
sh "$tarvm" export "$source" -o "$T/vm.ova"
sh "$tarvm" ovf verify "$T/vm.ova"
mkdir "$T/ova"
tar -xf "$T/vm.ova" -C "$T/ova"
disk=$(echo "$T"/ova/*.vmdk)
machine lsi53c895a "$disk" vmdk
stop ova "$disk" vmdk "${plain[@]}"
rm -r "$T/ova"

say "From the OVA to libvirt."
sh "$tarvm" import "$T/vm.ova" -C "$T/libvirt" --to libvirt
disk=$(sed -n "s/.*<source file=[\"']\([^\"']*\.qcow2\)[\"'].*/\1/p" "$T"/libvirt/*.xml)
[ -s "$disk" ] || die "the domain names no disk that is there: $disk"
machine lsi53c895a "$disk" qcow2
stop libvirt "$disk" qcow2 "${plain[@]}"
rm "$T/vm.ova"

say "From libvirt to XenServer."
sh "$tarvm" export "$T/libvirt" -o "$T/vm.xva"
rm -r "$T/libvirt"
# Blocks of 1 MiB under their numbers; what is zero is left out.
disk=$T/xva.raw
export disk
# shellcheck disable=SC2016 # tar's shell expands it
tar -xf "$T/vm.xva" --to-command='
  case $TAR_FILENAME in
  Ref:*/*[!0-9]*) cat >/dev/null ;;
  Ref:*/*) n=$(expr "${TAR_FILENAME##*/}" + 0) || :; dd of="$disk" bs=1M seek="$n" iflag=fullblock conv=notrunc status=none ;;
  *) cat >/dev/null ;;
  esac'
# Xen's own devices are not QEMU's: SATA is what stands for them.
machine ich9-ahci "$disk" raw ide-hd,bus=bus.0
stop xva "$disk" raw "${plain[@]}"
rm "$disk"

say "From the XVA back to VMware."
sh "$tarvm" import "$T/vm.xva" -C "$T/vmx" --to vmx
disk=$(echo "$T"/vmx/*.vmdk)
machine ich9-ahci "$disk" vmdk ide-hd,bus=bus.0
stop vmx "$disk" vmdk "${plain[@]}"
rm -r "$T/vmx"

say "From the XVA to plain QEMU: its script starts it."
sh "$tarvm" import "$T/vm.xva" -C "$T/qemu" --to qemu
script=$(echo "$T"/qemu/*.sh) disk=$(echo "$T"/qemu/*.qcow2)
sum=$(sha256sum "$T"/qemu/*)
loader=0
stop qemu "$disk" qcow2 "$script"
if [[ " $STOPS " == *" bios "* ]]; then
  [[ " $STOPS " == *" qemu "* ]] || lift "$disk" qcow2
  if [ "$loader" = 1 ]; then
    started bios "$script"
  else
    say "SKIPPED: there is no boot loader on the disk (extlinux), so that the BIOS does not start it"
    rows+=("bios: SKIPPED: no boot loader on the disk")
  fi
fi
[ "$sum" = "$(sha256sum "$T"/qemu/*)" ] || die "starting has changed the files"

echo
printf '%s\n' "${rows[@]}"
echo "BOOT PASSED in $SECONDS s: the disk is the same at each stop."
