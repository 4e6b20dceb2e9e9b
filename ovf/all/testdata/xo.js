// xo.js VMDK VHD: has Xen Orchestra's reader make a VHD of a stream-optimized VMDK, as its import does in the browser.
const fs = require('fs')
const xo = require('xo-vmdk-to-vhd')

async function main([source, target]) {
  const fd = fs.openSync(source, 'r')
  const { size } = fs.fstatSync(fd)
  const read = async (start, end) => {
    if (start < 0) {
      start += size
      end += size
    }
    const buffer = Buffer.alloc(end - start)
    const n = fs.readSync(fd, buffer, 0, end - start, start)
    return buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + n)
  }
  const table = await xo.readVmdkGrainTable(read)
  const stream = await xo.default(
    fs.createReadStream(source),
    new Uint32Array(table.grainLogicalAddressList),
    new Uint32Array(table.grainFileOffsetList)
  )
  await new Promise((resolve, reject) =>
    stream.on('error', reject).pipe(fs.createWriteStream(target)).on('error', reject).on('finish', resolve)
  )
}

main(process.argv.slice(2)).catch(error => {
  console.error(error)
  process.exit(1)
})
