// xlp FILE...: what Xen's own reader of xl.cfg, libxlutil, makes of configurations. It needs no Xen to run, only the
// libraries: gcc xlp.c -lxlutil -lxenlight -lxentoollog (Debian: libxen-dev).
#include <stdio.h>
#include <libxl.h>
#include <libxlutil.h>

static int disks(XLU_Config *cfg, XLU_ConfigList *list)
{
	const char *text;
	int bad = 0;

	for (int i = 0; (text = xlu_cfg_get_listitem(list, i)); i++) {
		libxl_device_disk d;

		libxl_device_disk_init(&d);
		if (xlu_disk_parse(cfg, 1, &text, &d)) {
			bad++;
			continue;
		}
		printf("  disk %s vdev=%s fmt=%d ro=%d cd=%d\n", d.pdev_path ? d.pdev_path : "-", d.vdev ? d.vdev : "-",
		       d.format, !d.readwrite, d.is_cdrom);
	}
	return bad;
}

int main(int argc, char **argv)
{
	int failed = 0;

	for (int i = 1; i < argc; i++) {
		XLU_Config *cfg = xlu_cfg_init(stderr, argv[i]);
		XLU_ConfigList *list;
		const char *text = "-";
		long memory = 0, vcpus = 0;
		int n, bad = 0;

		if (xlu_cfg_readfile(cfg, argv[i])) {
			printf("%s: not read\n", argv[i]);
			failed = 1;
			continue;
		}
		if (!xlu_cfg_get_list(cfg, "disk", &list, &n, 0))
			bad = disks(cfg, list);
		if (!xlu_cfg_get_list(cfg, "vif", &list, &n, 0))
			for (int k = 0; (text = xlu_cfg_get_listitem(list, k)); k++)
				printf("  vif %d: %s\n", k, text);
		text = "-";
		xlu_cfg_get_string(cfg, "name", &text, 0);
		xlu_cfg_get_long(cfg, "memory", &memory, 1);
		xlu_cfg_get_long(cfg, "vcpus", &vcpus, 1);
		printf("%s: name=%s memory=%ld vcpus=%ld\n", argv[i], text, memory, vcpus);
		if (bad) {
			printf("%s: %d disks not understood\n", argv[i], bad);
			failed = 1;
		}
		xlu_cfg_destroy(cfg);
	}
	return failed;
}
