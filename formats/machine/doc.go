// Package machine is what a hypervisor's configuration says of a virtual machine, in words that belong to no
// hypervisor: firmware, processors, memory, controllers, drives, network adapters and the rest.
//
// Each form in which configurations are written (VMX, VirtualBox's .vbox, libvirt's domain XML, xl.cfg, the virtual
// systems of an OVF envelope) has a package of its own that turns it into a Machine and back. Names of models are those
// of QEMU and libvirt where these have one: a form's package translates.
//
// # Nothing is invented
//
// The zero value of a field means that the source does not say: a Switch is Unsaid, a number is 0, a string is empty.
// A form's encoder writes nothing for such a field, unless the form demands a value; then the encoder's documentation
// says which one it takes.
//
// # Nothing is lost on the way back
//
// What a source says and this model has no word for stays with the part of the machine that it was said of, as its
// Origin. An encoder of the same form begins with that and changes only what differs from what it meant, so that
// decoding and encoding again returns every setting. An encoder of another form cannot use it. What it cannot say of
// what the model does know it returns as Losses, for the user to read before anything is written.
//
// # Security
//
// Configurations are untrusted. Decoders limit the size and depth of their input, expand no entities, and return names
// of files as they stand; whoever opens these confines them to the machine's directory.
package machine
