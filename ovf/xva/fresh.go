package xva

import (
	"fmt"

	"tarvm/formats/machine"
)

// The objects of a new document have the fields that xapi has without a default of its own, and those that Xen Orchestra
// writes; the values are those of a machine that does not run.

// noTime is xapi's time that never was.
const noTime = "19700101T00:00:00Z"

func fresh() *document {
	return &document{root: fields(
		member{"version", fields(
			member{"hostname", text("localhost")},
			member{"date", text("2022-01-01")},
			// An import refuses what a later xapi wrote, by xapi_major and xapi_minor: those of 8.2 go everywhere.
			member{"product_version", text("8.2.1")},
			member{"product_brand", text("XCP-ng")},
			member{"build_number", text("release/yangtze/master/58")},
			member{"xapi_major", number(1)},
			member{"xapi_minor", number(20)},
			member{"export_vsn", number(2)}, // with digests
		)},
		member{"objects", array()},
	)}
}

func freshVM(e *encoder) *value {
	empty, none := func() *value { return fields() }, func() *value { return array() }
	id := e.m.UUID
	if id == "" {
		id = e.uuid("vm")
	}
	return fields(
		member{"uuid", text(id)},
		member{"allowed_operations", none()},
		member{"current_operations", empty()},
		member{"name_label", text("")},
		member{"name_description", text("")},
		member{"power_state", text("Halted")},
		member{"user_version", number(1)},
		member{"is_a_template", flag(false)},
		member{"is_default_template", flag(false)},
		member{"suspend_VDI", text(null)},
		member{"resident_on", text(null)},
		member{"scheduled_to_be_resident_on", text(null)},
		member{"affinity", text(null)},
		member{"memory_overhead", number(11 << 20)},
		member{"memory_target", number(0)},
		member{"memory_static_max", number(defaultMemory)},
		member{"memory_dynamic_max", number(defaultMemory)},
		member{"memory_dynamic_min", number(defaultMemory)},
		member{"memory_static_min", number(defaultMemory)},
		member{"VCPUs_params", empty()},
		member{"VCPUs_max", number(1)},
		member{"VCPUs_at_startup", number(1)},
		member{"actions_after_shutdown", text("destroy")},
		member{"actions_after_reboot", text("restart")},
		member{"actions_after_crash", text("restart")},
		member{"consoles", none()},
		member{"VIFs", none()},
		member{"VBDs", none()},
		member{"VUSBs", none()},
		member{"crash_dumps", none()},
		member{"VTPMs", none()},
		member{"PV_bootloader", text("")},
		member{"PV_kernel", text("")},
		member{"PV_ramdisk", text("")},
		member{"PV_args", text("")},
		member{"PV_bootloader_args", text("")},
		member{"PV_legacy_args", text("")},
		member{"HVM_boot_policy", text("BIOS order")},
		member{"HVM_boot_params", fields(member{"order", text("dcn")})},
		member{"HVM_shadow_multiplier", real("1")},
		member{"platform", fields(
			member{"timeoffset", text("0")},
			member{"device-model", text("qemu-upstream-compat")},
			member{"secureboot", text("false")},
			member{"hpet", text("true")},
			member{"nx", text("true")},
			member{"pae", text("true")},
			member{"apic", text("true")},
			member{"viridian", text("true")},
			member{"acpi", text("1")},
		)},
		member{"PCI_bus", text("")},
		member{"other_config", fields(
			member{"mac_seed", text(e.uuid("mac_seed"))},
			member{"base_template_name", text(otherMedia)},
			member{"install-methods", text("cdrom")},
		)},
		member{"domid", number(-1)},
		member{"domarch", text("")},
		member{"last_boot_CPU_flags", empty()},
		member{"is_control_domain", flag(false)},
		member{"metrics", text(null)},
		member{"guest_metrics", text(null)},
		member{"last_booted_record", text("")},
		member{"recommendations", text("")},
		member{"xenstore_data", empty()},
		member{"ha_always_run", flag(false)},
		member{"ha_restart_priority", text("")},
		member{"is_a_snapshot", flag(false)},
		member{"snapshot_of", text(null)},
		member{"snapshots", none()},
		member{"snapshot_time", when(noTime)},
		member{"transportable_snapshot_id", text("")},
		member{"blobs", empty()},
		member{"tags", none()},
		member{"blocked_operations", empty()},
		member{"snapshot_info", empty()},
		member{"snapshot_metadata", text("")},
		member{"parent", text(null)},
		member{"children", none()},
		member{"bios_strings", empty()},
		member{"protection_policy", text(null)},
		member{"is_snapshot_from_vmpp", flag(false)},
		member{"snapshot_schedule", text(null)},
		member{"is_vmss_snapshot", flag(false)},
		member{"appliance", text(null)},
		member{"start_delay", number(0)},
		member{"shutdown_delay", number(0)},
		member{"order", number(0)},
		member{"VGPUs", none()},
		member{"attached_PCIs", none()},
		member{"suspend_SR", text(null)},
		member{"version", number(0)},
		member{"generation_id", text("")},
		member{"hardware_platform_version", number(0)},
		member{"has_vendor_device", flag(false)},
		member{"requires_reboot", flag(false)},
		member{"reference_label", text("other-install-media")},
		member{"domain_type", text("hvm")},
		member{"NVRAM", empty()},
	)
}

func freshSR(e *encoder) *value {
	return fields(
		member{"uuid", text(e.uuid("sr"))},
		member{"name_label", text("Local storage")},
		member{"name_description", text("")},
		member{"allowed_operations", array()},
		member{"current_operations", fields()},
		member{"VDIs", array()},
		member{"PBDs", array()},
		member{"virtual_allocation", number(0)},
		member{"physical_utilisation", number(0)},
		member{"physical_size", number(0)},
		member{"type", text("ext")},
		member{"content_type", text("user")},
		member{"shared", flag(false)},
		member{"other_config", fields()},
		member{"tags", array()},
		member{"sm_config", fields()},
		member{"blobs", fields()},
		member{"local_cache_enabled", flag(false)},
		member{"introduced_by", text(null)},
		member{"clustered", flag(false)},
		member{"is_tools_sr", flag(false)},
	)
}

func freshVDI(e *encoder, at machine.Address) *value {
	id := e.uuid("vdi " + at.String())
	return fields(
		member{"uuid", text(id)},
		member{"name_label", text("disk " + at.String())},
		member{"name_description", text("")},
		member{"allowed_operations", array()},
		member{"current_operations", fields()},
		member{"SR", text(null)},
		member{"VBDs", array()},
		member{"crash_dumps", array()},
		member{"virtual_size", number(0)},
		member{"physical_utilisation", number(0)},
		member{"type", text("user")},
		member{"sharable", flag(false)},
		member{"read_only", flag(false)},
		member{"other_config", fields()},
		member{"storage_lock", flag(false)},
		member{"location", text(id)},
		member{"managed", flag(true)},
		member{"missing", flag(false)},
		member{"parent", text(null)},
		member{"xenstore_data", fields()},
		member{"sm_config", fields()},
		member{"is_a_snapshot", flag(false)},
		member{"snapshot_of", text(null)},
		member{"snapshots", array()},
		member{"snapshot_time", when(noTime)},
		member{"tags", array()},
		member{"allow_caching", flag(false)},
		member{"on_boot", text("persist")},
		member{"metadata_of_pool", text(null)},
		member{"metadata_latest", flag(false)},
		member{"is_tools_iso", flag(false)},
		member{"cbt_enabled", flag(false)},
		member{"metrics", text(null)},
	)
}

// deviceFields are those that VBDs and VIFs share.
func deviceFields(e *encoder, name string) []member {
	return []member{
		{"uuid", text(e.uuid(name))},
		{"allowed_operations", array()},
		{"current_operations", fields()},
		{"VM", text(null)},
		{"other_config", fields()},
		{"currently_attached", flag(false)},
		{"status_code", number(0)},
		{"status_detail", text("")},
		{"runtime_properties", fields()},
		{"qos_algorithm_type", text("")},
		{"qos_algorithm_params", fields()},
		{"qos_supported_algorithms", array()},
		{"metrics", text(null)},
	}
}

func freshVBD(e *encoder, at machine.Address) *value {
	return fields(append(deviceFields(e, "vbd "+at.String()),
		member{"VDI", text(null)},
		member{"device", text("")},
		member{"userdevice", text("")},
		member{"bootable", flag(true)},
		member{"mode", text("RW")},
		member{"type", text("Disk")},
		member{"unpluggable", flag(true)},
		member{"storage_lock", flag(false)},
		member{"empty", flag(true)},
	)...)
}

func freshVIF(e *encoder, i int) *value {
	return fields(append(deviceFields(e, fmt.Sprint("vif ", i)),
		member{"device", text("")},
		member{"network", text(null)},
		member{"MAC", text("")},
		member{"MTU", number(1500)},
		member{"MAC_autogenerated", flag(true)},
		member{"locking_mode", text("network_default")},
		member{"ipv4_allowed", array()},
		member{"ipv6_allowed", array()},
		member{"ipv4_configuration_mode", text("None")},
		member{"ipv4_addresses", array()},
		member{"ipv4_gateway", text("")},
		member{"ipv6_configuration_mode", text("None")},
		member{"ipv6_addresses", array()},
		member{"ipv6_gateway", text("")},
	)...)
}

func freshNetwork(e *encoder, label string) *value {
	return fields(
		member{"uuid", text(e.uuid("network " + label))},
		member{"name_label", text(label)},
		member{"name_description", text("")},
		member{"allowed_operations", array()},
		member{"current_operations", fields()},
		member{"VIFs", array()},
		member{"PIFs", array()},
		member{"MTU", number(1500)},
		member{"other_config", fields()},
		member{"bridge", text("")},
		member{"managed", flag(true)},
		member{"blobs", fields()},
		member{"tags", array()},
		member{"default_locking_mode", text("unlocked")},
		member{"assigned_ips", fields()},
		member{"purpose", array()},
	)
}
