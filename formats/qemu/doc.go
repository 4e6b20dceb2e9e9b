// Package qemu writes a shell script that starts a machine under plain QEMU, without root, libvirt or a file of its own.
//
// Sources: qemu(1) and the devices' properties of QEMU 7.2 (-device NAME,help); the firmware packages of Debian, Fedora,
// openSUSE, Arch and Homebrew for where OVMF lies. The script keeps to POSIX sh.
//
// # What the script does
//
// It changes to its own folder, which all names of files are relative to, and runs qemu-system-ARCH with KVM (or HVF) if
// that can be used, else with emulation. Each drive of the model is on its own kind of controller, each network adapter of
// its model. Firmware of type efi is looked for in the usual places; its variables are kept beside the script in a file
// that is made on the first start. A TPM is swtpm's, with its state beside the script. Arguments of the script come last,
// so that they add to QEMU's or replace what is there. These variables change what it does:
//
//	QEMU        the program
//	ACCEL       kvm, hvf, tcg
//	CPU         the processor's model
//	NET         a bridge of the host for all adapters; without, QEMU's own network, which needs no rights
//	OVMF_CODE   the firmware's code, with OVMF_VARS, the template of its variables
//	AUDIO       the driver for sound: pa, pipewire, alsa, coreaudio, sdl, none
//
// Machines for x86_64, i686 and aarch64 are written; others are ErrUnsupported. What QEMU has no equal of comes back as
// losses, such as BusLogic, which becomes an LSI 53C895A, or places that a controller of QEMU's does not have.
//
// # Security
//
// Everything that a machine says is quoted for the shell, and for QEMU, whose options end at commas. As machines are
// untrusted, files outside the script's folder (absolute names, and those with ..), devices of the host, and addresses
// of networks are left out, with a loss, unless Options.Host is set.
// What an image itself names, such as a backing file, QEMU opens: it is not looked at here.
package qemu
