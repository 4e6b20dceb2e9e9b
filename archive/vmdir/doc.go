// Package vmdir is everything that touches the file system of a virtual
// machine's directory: walking it, telling what its files are to the machine,
// finding out whether the machine runs, reading files and their holes, and
// giving restored files their metadata.
//
// # Walking
//
// [Walk] lists the directory itself as ".", then its content depth first: a
// directory before what it holds, siblings sorted by the bytes of their names.
// The order is the same on every machine. Of several names of one file the
// first is a File, the others are Links to it. Other file systems mounted below
// the directory are walked, too. Sockets, devices and lock files are listed
// with a reason in Skipped; they are not for packing.
//
// The names .tarvm and .tarvm-restore at the top are reserved: the first for
// what an archive carries beside the machine's files, the second for a restore
// that was interrupted and must be completed first.
//
// # Roles
//
// What a file is to its machine goes by content first: the given disk formats,
// then magics of saved memory (VMware .vmss and .vmsn, QEMU and libvirt
// streams, VirtualBox saved states, ELF cores), root elements of configuration
// files, and partition tables. Files smaller than 64 KiB are opened only when
// their name's extension asks for it. Where content says nothing, the name
// decides. Roles are hints: nothing depends on them but order and reports.
//
// # Metadata
//
// Mode, owner, group, modification time to the nanosecond, targets of symbolic
// links, and extended attributes of files and directories. Of the attributes of
// Linux, those are kept that belong to the file: user.*, security.capability and
// the access control lists in system.posix_acl_*. Left out are security.selinux,
// security.ima, security.evm and security.apparmor, which the policy and keys
// of the host give; trusted.*, which belongs to overlays and storage daemons and
// is visible to root alone; and what file systems make up (system.nfs4_acl,
// btrfs.*). GNU tar --xattrs stores all that it can read and by default restores
// user.* alone; tar --acls handles the lists. On macOS all are kept except
// com.apple.provenance and com.apple.quarantine. On Windows there are modes as
// Go gives them, and neither owners, attributes, nor hard links.
//
// # Lock files
//
// VMware's locks (files and directories NAME.lck, .lck-HEX) have role lock and
// are skipped: restored, they would keep the machine from starting. Files named
// *.lock have that role when they are empty, but are packed, because other
// programs keep data under such names.
//
// # Security
//
// All access is relative to open directories. No symbolic link is followed, not
// even one that stays inside of the directory or that replaces a directory
// while it is walked: on Linux, macOS and FreeBSD by openat with O_NOFOLLOW for
// each component, elsewhere by os.Root. FIFOs and devices are never opened for
// reading content. Paths given to the functions that write are checked.
package vmdir
