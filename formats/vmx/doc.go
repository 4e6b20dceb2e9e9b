// Package vmx reads and writes VMware's configurations of machines: the .vmx files of Workstation, Player, Fusion, Server
// and ESXi.
//
// There is no public specification. The grammar of lines is that of VMware's own reader (open-vm-tools,
// lib/dict/dictll.c), duplicate keys and encodings follow its dictionaries (VMware View Open Client, dictionary.c); the
// meaning of keys comes from libvirt's src/vmx/vmx.c and from files that the products and their users wrote.
//
// # The file
//
// Each line is key = "value", with an optional comment that begins with #. Keys have no cases. Values may be without
// quotes if they have no spaces; |22 is the byte 0x22 in a value. A line that is none of these is an error, as it is to
// VMware. Of keys that are there twice the first counts, to libvirt as to VMware, which complains of the others; all of
// them are kept. Lines end in LF or CRLF. The bytes are in the encoding that the key .encoding names (UTF-8, the Windows
// and ISO 8859 ones, Shift_JIS, EUC-JP, GBK, GB18030, Big5, EUC-KR); files with a byte order mark are UTF-8 or UTF-16;
// without either it is UTF-8 where that is valid, else windows-1252. Of an unknown encoding text is shown as well as it
// can be, and kept.
//
// # What is read
//
// Names, identifiers, the guest's type, firmware, TPM, processors, memory; controllers and drives on SCSI, SATA, NVMe,
// IDE, USB and for floppies; network adapters, boot order, screen, VNC, sound, serial and parallel ports, shared folders,
// PCI devices that are passed through. Devices that are not present, and drives of controllers that are not, have no part
// in the machine. Everything else (snapshots, suspended states, resource shares, the state of VMware Tools) is kept for
// the way back and not known to other forms.
//
// # What is refused
//
// Files that are encrypted as a whole, files of more than machine.MaxConfig bytes or 100,000 lines, and numbers, UUIDs and
// MAC addresses that are none.
//
// # Security
//
// A VMX is untrusted. Names of files are returned as they stand, with slashes for Windows' separators; other files that it
// names (include, fileSearchPath, extendedConfigFile) are never opened. What is written quotes every value, so that none
// can become a line of its own.
package vmx
