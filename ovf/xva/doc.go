// Package xva reads and writes .xva files, in which XenServer (Citrix Hypervisor) and XCP-ng export virtual machines.
//
// An XVA is a tar archive, which may be compressed as a whole. Its first member, ova.xml, holds records of xapi's
// database as one XML-RPC value: which version wrote it, and a list of objects, each with a class (VM, VBD, VDI, VIF,
// network, SR and others), an id that is valid in this file alone (Ref:7), and a snapshot of its fields. Behind it come
// the blocks of the disks as members Ref:7/00000000, Ref:7/00000001 and so on, each followed by a member with a digest
// of it.
//
// # Sources
//
// There is no specification. What is done here is what xapi does:
//
//   - xapi-project/xen-api, ocaml/xapi/export.ml, import.ml and importexport.ml: objects and their fields.
//   - ocaml/xapi/stream_vdi.ml: blocks, digests, and the order in which an import demands them.
//   - vatesfr/xen-orchestra, @xen-orchestra/xva: another program that writes files which xapi takes.
//   - Citrix Hypervisor product documentation, "Import and export VMs", section "XVA format".
//   - xapi-project/varstored, include/xapidb.h and serialize.h: the variables of the firmware (see [OVMFVariables]).
//
// # Reading
//
// [Open] indexes a plain archive; for a compressed one, [Decompress] unpacks it to where the caller says. The result is
// a [Package]: the machine, and an fs.FS in which each disk is a file of raw bytes that knows its holes.
//
// Where a block lies follows from the sizes of those before it, as xapi has it: a number that was left out skips as much
// as the first block has, and a block without bytes, which xapi writes so that idle connections are not closed, takes a
// number but no place. So blocks of other sizes than 1 MiB are understood. Digests are XXH64 (.xxhash) or, before
// Citrix Hypervisor 8.1, SHA-1 (.checksum); they are compared whenever a whole block is read, and by [Package.Verify].
//
// Templates, snapshots and control domains in a file with several machines are told apart. Objects of unknown classes
// and unknown fields are kept.
//
// Refused: the form of XenServer 3, whose root element is an appliance.
//
// # Writing
//
// [Write] writes front to back, ova.xml first, then the disks in the order of their ids, because xapi imports them in
// that order, whatever the order of the file. Blocks are 1 MiB. Those that are zero are left out, except the first, the last
// and each 4096th: xapi demands the first two, and an import whose connection says nothing for minutes is cut by
// firewalls. (xapi writes such a block after five seconds and Xen Orchestra after sixty; here it hangs on the number of
// the block, so that the same disk gives the same bytes.) Disks grow to whole MiB, which is a loss that is reported. The
// same machine, disks and options give the same bytes on any number of workers.
//
// # Security
//
// An XVA is untrusted. ova.xml is limited to machine.MaxConfig bytes and read by package xmldoc; the index grows by
// 40 bytes or so for each member that is really there; sizes are checked before they are used, and a disk is at most 64 TiB. Names
// of files in the fs.FS are made from labels, with all that could lead elsewhere replaced.
//
//	p, err := xva.Open(src)
//	for _, d := range p.Disks {
//		f, err := p.FS().Open(d.Name) // an io.ReaderAt with DataAt
//	}
package xva
