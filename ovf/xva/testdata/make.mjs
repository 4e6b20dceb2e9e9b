// Makes xo-*.xva.gz with Xen Orchestra's writer, from machines.json: see README.md.
import { importVm } from '@xen-orchestra/xva/importVm.mjs'
import { createWriteStream, readFileSync } from 'node:fs'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGzip } from 'node:zlib'

function * content ({ size, runs }) {
  for (let at = 0; at < size; at += 1 << 20) {
    const b = Buffer.alloc(Math.min(1 << 20, size - at))
    for (const [off, n] of runs) {
      for (let i = Math.max(off, at); i < Math.min(off + n, at + b.length); i++) b[i - at] = i % 251 + 1
    }
    yield b
  }
}

for (const m of JSON.parse(readFileSync(process.argv[2]))) {
  const vhds = m.disks.map(d => ({
    footer: { currentSize: d.size },
    rawContent: async () => Readable.from(content(d), { objectMode: false })
  }))
  const xapi = {
    task_create: async () => 'OpaqueRef:task',
    putResource: async stream => {
      await pipeline(stream, createGzip({ level: 9 }), createWriteStream(`xo-${m.file}.xva.gz`))
      return 'OpaqueRef:12345678-abcd'
    }
  }
  await importVm({
    name_label: m.name, name_description: m.description, memory: m.memory, nCpus: m.cpus, firmware: m.firmware,
    vdis: m.disks.map(d => ({ name_label: d.label, virtual_size: d.size })), vhds, networks: m.networks
  }, xapi, { $ref: 'OpaqueRef:sr', uuid: '11111111-2222-3333-4444-555555555555', name_label: 'Local', content_type: 'user', type: 'ext' },
  m.networks && { uuid: '99999999-2222-3333-4444-555555555555', name_label: 'Pool-wide network', bridge: 'xenbr0' })
}
