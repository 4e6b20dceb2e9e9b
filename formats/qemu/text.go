package qemu

import (
	"strings"

	"tarvm/formats/machine"
)

// firmwares are where the code of OVMF and the template of its variables lie, in the order in which they are looked for.
var firmwares = map[string]string{
	"x86_64": `/usr/share/OVMF/OVMF_CODE_4M.fd /usr/share/OVMF/OVMF_VARS_4M.fd
/usr/share/OVMF/OVMF_CODE.fd /usr/share/OVMF/OVMF_VARS.fd
/usr/share/edk2/x64/OVMF_CODE.4m.fd /usr/share/edk2/x64/OVMF_VARS.4m.fd
/usr/share/edk2-ovmf/x64/OVMF_CODE.fd /usr/share/edk2-ovmf/x64/OVMF_VARS.fd
/usr/share/edk2/ovmf/OVMF_CODE.fd /usr/share/edk2/ovmf/OVMF_VARS.fd
/usr/share/edk2-ovmf/OVMF_CODE.fd /usr/share/edk2-ovmf/OVMF_VARS.fd
/usr/share/qemu/ovmf-x86_64-4m-code.bin /usr/share/qemu/ovmf-x86_64-4m-vars.bin
/usr/share/qemu/ovmf-x86_64-code.bin /usr/share/qemu/ovmf-x86_64-vars.bin
/opt/homebrew/share/qemu/edk2-x86_64-code.fd /opt/homebrew/share/qemu/edk2-i386-vars.fd
/usr/local/share/qemu/edk2-x86_64-code.fd /usr/local/share/qemu/edk2-i386-vars.fd
/usr/share/qemu/edk2-x86_64-code.fd /usr/share/qemu/edk2-i386-vars.fd`,
	"x86_64 secure": `/usr/share/OVMF/OVMF_CODE_4M.ms.fd /usr/share/OVMF/OVMF_VARS_4M.ms.fd
/usr/share/OVMF/OVMF_CODE_4M.secboot.fd /usr/share/OVMF/OVMF_VARS_4M.ms.fd
/usr/share/OVMF/OVMF_CODE.secboot.fd /usr/share/OVMF/OVMF_VARS.ms.fd
/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd /usr/share/edk2/ovmf/OVMF_VARS.secboot.fd
/usr/share/qemu/ovmf-x86_64-smm-ms-code.bin /usr/share/qemu/ovmf-x86_64-smm-ms-vars.bin
/usr/share/edk2/x64/OVMF_CODE.secboot.4m.fd /usr/share/edk2/x64/OVMF_VARS.4m.fd
/opt/homebrew/share/qemu/edk2-x86_64-secure-code.fd /opt/homebrew/share/qemu/edk2-i386-vars.fd
/usr/local/share/qemu/edk2-x86_64-secure-code.fd /usr/local/share/qemu/edk2-i386-vars.fd`,
	"aarch64": `/usr/share/AAVMF/AAVMF_CODE.fd /usr/share/AAVMF/AAVMF_VARS.fd
/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw /usr/share/edk2/aarch64/vars-template-pflash.raw
/usr/share/edk2/aarch64/QEMU_CODE.fd /usr/share/edk2/aarch64/QEMU_VARS.fd
/usr/share/qemu/aavmf-aarch64-code.bin /usr/share/qemu/aavmf-aarch64-vars.bin
/opt/homebrew/share/qemu/edk2-aarch64-code.fd /opt/homebrew/share/qemu/edk2-arm-vars.fd
/usr/local/share/qemu/edk2-aarch64-code.fd /usr/local/share/qemu/edk2-arm-vars.fd`,
}

// defaultVars is the file beside the script that keeps the variables, tpmState the folder that keeps the TPM's state.
const (
	defaultVars = "./efi-vars.fd"
	tpmState    = "./tpm-state"
)

// vars is the file that keeps the variables: the machine's own if it was OVMF's.
func (w *writer) vars() string {
	v := w.m.Firmware.Vars
	if (w.m.Platform == "kvm" || w.m.Platform == "qemu") && (v.Format == "" || v.Format == "raw") {
		if f, ok := w.file(v.Path); ok {
			return f
		}
	}
	return defaultVars
}

// comment makes one line of a comment.
func comment(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0x85 || r == 0x2028 || r == 0x2029 {
			return ' '
		}
		return r
	}, s)
}

// script puts the text together.
func (w *writer) script() string {
	var b strings.Builder
	p := func(s string) { b.WriteString(s) }
	p("#!/bin/sh\n# Starts a virtual machine under QEMU: " + comment(w.m.Name) + `
# Arguments are added to QEMU's. Names of files in them are relative to the script's folder.
# Variables: QEMU, ACCEL (kvm, hvf, tcg), CPU, NET (a bridge; without, QEMU's own network)` +
		", OVMF_CODE and OVMF_VARS, AUDIO." + `
set -eu
cd -P -- "$(dirname -- "$0")"

fail() {
	printf '%s: %s\n' "$0" "$1" >&2
	exit 1
}

qemu=${QEMU:-qemu-system-` + w.arch + `}
command -v "$qemu" >/dev/null 2>&1 || fail "$qemu is not installed (Debian: qemu-system-` + map[bool]string{false: "x86", true: "arm"}[w.virt] + `, Fedora: qemu-kvm, Homebrew: qemu)"

accel=${ACCEL:-}
if [ -z "$accel" ]; then
	accel=tcg
	case $(uname -s) in
	Linux) if [ -r /dev/kvm ] && [ -w /dev/kvm ]; then kvm=kvm:tcg; else kvm=tcg; fi ;;
	Darwin) kvm=hvf:tcg ;;
	*) kvm=tcg ;;
	esac
	case $(uname -m) in
	` + map[bool]string{false: "x86_64 | amd64", true: "aarch64 | arm64"}[w.virt] + `) accel=$kvm ;;
	esac
fi
`)
	if len(w.m.NICs) > 0 {
		p(`
# net ID OPTIONS: the network behind an adapter
net() {
	if [ -n "${NET:-}" ]; then
		printf 'bridge,id=%s,br=%s' "$1" "$NET"
	else
		printf 'user,id=%s%s' "$1" "$2"
	fi
}
`)
	}
	if w.m.Firmware.Type == "efi" || w.virt {
		w.firmware(&b)
	}
	if w.m.TPM != nil {
		w.tpm(&b)
	}
	if len(w.m.Sounds) > 0 {
		p(`
audio=${AUDIO:-}
if [ -z "$audio" ]; then
	audio=none
	if [ "$(uname -s)" = Darwin ]; then
		audio=coreaudio
	elif [ -S "${XDG_RUNTIME_DIR:-/nonexistent}/pulse/native" ]; then
		audio=pa
	fi
fi
set -- -audiodev "$audio,id=snd" "$@"
`)
	}
	p(`
# Without a screen for QEMU's window there is VNC, on this host alone.
if [ -z "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ] && [ "$(uname -s)" != Darwin ]; then
	case " $* " in
	*" -display "* | *" -nographic "* | *" -vnc "* | *" -spice "* | *" --display "*) ;;
	*) set -- -vnc 127.0.0.1:0,to=99 "$@" ;;
	esac
fi

case $accel in
*:*) set -- -accel "${accel%%:*}" -accel "${accel#*:}" "$@" ;;
*) set -- -accel "$accel" "$@" ;;
esac

exec "$qemu"`)
	for _, a := range w.args {
		p(" \\\n\t" + a)
	}
	p(" \\\n\t\"$@\"\n")
	return b.String()
}

// firmware writes what finds OVMF. The file of variables that is there says which of the sizes is to be taken.
func (w *writer) firmware(b *strings.Builder) {
	list := firmwares[w.arch]
	if w.m.Firmware.SecureBoot == machine.On && !w.virt {
		list = firmwares["x86_64 secure"]
	}
	b.WriteString(`
# The firmware: the file of variables beside the script is made of its template, and has the size of its kind.
vars=` + quote(w.vars()) + `
code=${OVMF_CODE:-}
template=${OVMF_VARS:-}
if [ -z "$code" ]; then
	while read -r c v; do
		if [ ! -r "$c" ] || [ ! -r "$v" ]; then
			continue
		fi
		if [ -e "$vars" ] && [ "$(wc -c <"$vars")" -ne "$(wc -c <"$v")" ]; then
			continue
		fi
		code=$c
		template=$v
		break
	done <<-'END'
`)
	for line := range strings.SplitSeq(list, "\n") {
		b.WriteString("\t\t" + line + "\n")
	}
	b.WriteString(`	END
fi
[ -n "$code" ] || fail 'no firmware found for EFI` + map[bool]string{true: " with secure boot"}[w.m.Firmware.SecureBoot == machine.On] +
		`: install ovmf (Debian), edk2-ovmf (Fedora, Arch) or qemu (Homebrew), or set OVMF_CODE and OVMF_VARS'
if [ ! -e "$vars" ]; then
	[ -r "$template" ] || fail 'no template for the firmware'"'"'s variables: set OVMF_VARS'
	cp -- "$template" "$vars.new"
	chmod u+w "$vars.new"
	mv -- "$vars.new" "$vars"
fi
set -- -drive "if=pflash,unit=0,format=raw,readonly=on,file=$(printf '%s' "$code" | sed 's/,/,,/g')" \
	-drive "if=pflash,unit=1,format=raw,file=$(printf '%s' "$vars" | sed 's/,/,,/g')" "$@"
`)
}

// tpm writes what starts swtpm, which ends with QEMU.
func (w *writer) tpm(b *strings.Builder) {
	t := w.m.TPM
	flag, dev := " --tpm2", "tpm-crb"
	if t.Version == "1.2" {
		flag, dev = "", "tpm-tis"
	}
	switch {
	case t.Model == "tis":
		dev = "tpm-tis"
	case t.Model != "" && t.Model != "crb":
		w.lose("tpm", "model %s becomes %s", t.Model, dev)
	}
	if w.virt {
		dev = "tpm-tis-device"
	}
	if t.Backend == "passthrough" {
		w.lose("tpm", "the host's becomes an emulated one")
	}
	b.WriteString(`
# The TPM is another program's, which ends with QEMU.
if command -v swtpm >/dev/null 2>&1; then
	mkdir -p -m 700 ` + tpmState + `
	swtpm socket` + flag + ` --daemon --terminate --tpmstate dir="$PWD/` + tpmState[2:] + `" --ctrl type=unixio,path=` + tpmState + `/socket
	set -- -chardev socket,id=tpm,path=` + tpmState + `/socket -tpmdev emulator,id=tpm0,chardev=tpm -device ` + dev + `,tpmdev=tpm0 "$@"
else
	printf '%s: swtpm is not installed: the machine starts without its TPM\n' "$0" >&2
fi
`)
}
