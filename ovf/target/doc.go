// Package target turns a virtual machine into what another hypervisor takes: a package of OVF, a directory with its
// configuration and its disks, one file.
//
// A [VM] is a machine and the tree of files that it consists of: a directory on disk, an entry in a chain of archives, an
// OVA. What can be written is a [Target]. It makes a [Plan] first, from headers and maps alone, which says what will be
// written and what of the machine the target cannot express; then it writes, into a directory or into one file.
//
//	vm, err := target.Open(dir, "vm.vmx", o)
//	plan, err := t.Plan(vm, target.Options{Profile: "virtualbox"})
//	for _, l := range plan.Losses { ... }
//	err = plan.Write(ctx, sink)
//
// A [Collector] takes several machines, or all of a package, into one output.
//
// # Deltas
//
// A disk of an OVF package may be a difference to another one in it (ovf:parentRef), which VM.Disk opens with it: by what
// the image records of its parent, which must be that which the envelope says, or, of an image that records none, by the
// envelope alone. With Options.Base such packages are written: each disk has a file, also one that does not differ at all.
// A disk of a package without a file is blank or, with a parentRef, as its parent is.
//
// # The same bytes each time
//
// Everything that has to be unique and is not in the source (a VMDK's content id, a VDI's UUID) is derived from what the
// source is: its configuration, and the sizes and ids of its disks. Times are that of the machine. So the same VM gives
// the same output on any machine and with any number of workers.
//
// # Security
//
// Names in configurations are untrusted. What they name is looked for in the VM's tree and nowhere else (see package
// layers); what is written has names that this package makes.
package target
