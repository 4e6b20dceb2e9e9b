// Package xl reads and writes xl.cfg, the configuration of a guest of Xen as the xl tool takes it, and what of the older
// xm's files is no program.
//
// Sources: xl.cfg(5), xl-disk-configuration(5) and xl-network-configuration(5) of Xen 4.17; the grammar of libxlutil
// (libxlu_cfg_l.l, libxlu_cfg_y.y, libxlu_cfg.c) and its parser of disks (libxlu_disk_l.l), which are followed where the
// manual is silent; libxl_device.c for names of virtual devices.
//
// Read are strings in both kinds of quotes, numbers (decimal, octal, hexadecimal), lists over several lines and within
// lists, comments, ; between settings, and +=. The last assignment to a name counts. Refused are the expressions and
// statements of xm, which was Python, and numeric escapes in strings, which libxlutil itself misreads.
//
// Known to the model are: type, name, identity, memory, processors, firmware, boot order, kernels, disks in the keyed, the
// positional and the deprecated syntax, network adapters, the framebuffer, VNC, SDL, SPICE, graphics, sound, ports, USB,
// shared directories (p9), vTPMs, devices that are passed through, and the features of the platform. All other settings
// stay in the text of the Origin: a machine that is written in this form again differs from that text in the assignments,
// and the items of lists, whose meaning has changed, and in nothing else. Comments, order and spelling stay.
//
// # Where the forms differ
//
// Xen has no SATA, NVMe, USB or virtio disks as such. A guest of type hvm gets each disk named hd* twice: as an emulated
// IDE disk (SATA, with hdtype), and as Xen's own, which its drivers take instead of the other. Disks named xvd* are
// Xen's own alone, which SeaBIOS cannot boot. So a machine that comes from elsewhere has its first four drives at hd*,
// the optical ones among them, and the rest at xvd*. A machine that comes from a file of xl keeps its places; one of
// XenServer's has its first four at hd*, as XenServer shows them.
//
// Demanded by xl, and therefore written where the model says nothing: type, hvm; bootloader, pygrub, for a pv guest
// without a kernel; firmware, pvgrub64, for a pvh guest without one; vdev. A disk without a format is raw to xl: where
// the model does not say the format, the ending of the name tells it. Relative paths of disks are written as they stand,
// and xl takes them from the directory that it is started in.
//
// # Security
//
// Configurations are untrusted. Sizes, depths and counts are limited (machine.MaxConfig, 8 levels of lists, 65,536
// values), no name of a file is opened, and none of what xl would run (scripts, bootloaders, device models) is taken
// over into other forms.
package xl
