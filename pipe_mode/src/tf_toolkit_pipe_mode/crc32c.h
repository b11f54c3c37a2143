/* CRC-32C, by the processor's instruction where it has one. */
#ifndef TF_TOOLKIT_CRC32C_H
#define TF_TOOLKIT_CRC32C_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

/* https://www.rfc-editor.org/rfc/rfc3720#appendix-B.4; its polynomial, bits reversed. */
static const uint32_t CRC32C_POLYNOMIAL = 0x82f63b78;
/* What TFRecord makes of it: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details */
static const uint32_t CRC32C_MASK_DELTA = 0xa282ead8;

static uint32_t crc32c_table[256];

static uint32_t crc32c_by_table(uint32_t crc, const unsigned char *data, size_t size) {
  while (size--) crc = crc32c_table[(crc ^ *data++) & 0xff] ^ crc >> 8;
  return crc;
}

static uint32_t (*crc32c_update)(uint32_t, const unsigned char *, size_t) = crc32c_by_table;

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc32c_by_instruction(uint32_t crc, const unsigned char *data,
                                                                        size_t size) {
  uint64_t wide = crc, word;
  for (; size >= sizeof word; size -= sizeof word, data += sizeof word) {
    memcpy(&word, data, sizeof word);
    wide = _mm_crc32_u64(wide, word);
  }
  crc = (uint32_t)wide;
  while (size--) crc = _mm_crc32_u8(crc, *data++);
  return crc;
}
#elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
static uint32_t crc32c_by_instruction(uint32_t crc, const unsigned char *data, size_t size) {
  uint64_t word;
  for (; size >= sizeof word; size -= sizeof word, data += sizeof word) {
    memcpy(&word, data, sizeof word);
    crc = __crc32cd(crc, word);
  }
  while (size--) crc = __crc32cb(crc, *data++);
  return crc;
}
#endif

/* Before the first use. */
static void crc32c_prepare(void) {
  for (uint32_t byte = 0; byte < 256; byte++) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; bit++) crc = crc & 1 ? crc >> 1 ^ CRC32C_POLYNOMIAL : crc >> 1;
    crc32c_table[byte] = crc;
  }
#if defined(__x86_64__)
  if (__builtin_cpu_supports("sse4.2")) crc32c_update = crc32c_by_instruction;
#elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
  crc32c_update = crc32c_by_instruction;
#endif
}

static uint32_t crc32c_masked(const char *data, size_t size) {
  uint32_t crc = ~crc32c_update(~(uint32_t)0, (const unsigned char *)data, size);
  return (crc >> 15 | crc << 17) + CRC32C_MASK_DELTA;
}

#endif
