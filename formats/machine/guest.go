package machine

// A Guest says which operating system the guest is, in each of the vocabularies in which a source said it. In gives it in
// another one.
type Guest struct {
	// VMware is guestOS of a VMX, without the suffix that names a service's type: debian12-64, windows9-64. vSphere's
	// longer words (debian12_64Guest) are translated to it.
	VMware string `json:"vmware,omitempty"`
	// VirtualBox is OSType of a .vbox: Debian12_64, Windows10_64.
	VirtualBox string `json:"virtualbox,omitempty"`
	// CIM is the number in CIM_OperatingSystem.OsType that OVF uses; 0: not said. CIMVersion is ovf:version.
	CIM        int    `json:"cim,omitempty"`
	CIMVersion string `json:"cim_version,omitempty"`
	// Osinfo is libosinfo's URI: http://debian.org/debian/12.
	Osinfo string `json:"osinfo,omitempty"`
	// Text is what people are told.
	Text string `json:"text,omitempty"`
}
