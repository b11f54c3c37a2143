/* Strings in TensorFlow's tensors: tensorflow/tsl/platform/ctstring_internal.h, as far as it is needed, for little-endian
   machines of 64 bits. Either 22 bytes in place, or a block of malloc's; the low two bits of the first byte tell which. */
#ifndef TF_TOOLKIT_TSTRING_H
#define TF_TOOLKIT_TSTRING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__ || __SIZEOF_POINTER__ != 8
#error "written for little-endian machines of 64 bits"
#endif

enum { TSTRING_IN_PLACE = 22, TSTRING_LARGE = 1, TSTRING_TYPE = 3 };

typedef union {
  struct {
    uint8_t size;
    char data[TSTRING_IN_PLACE + 1];
  } small;
  struct {
    size_t size, capacity;
    char *data;
  } large;
} tstring;

_Static_assert(sizeof(tstring) == 24, "as TF_TString");

static inline bool tstring_is_large(const tstring *s) { return (s->small.size & TSTRING_TYPE) == TSTRING_LARGE; }

static inline size_t tstring_size(const tstring *s) { return tstring_is_large(s) ? s->large.size >> 2 : s->small.size >> 2; }

static inline char *tstring_data(tstring *s) { return tstring_is_large(s) ? s->large.data : s->small.data; }

static inline void tstring_clear(tstring *s) {
  if (tstring_is_large(s)) free(s->large.data);
  memset(s, 0, sizeof *s);
}

/* Set its size; what is new in it has no value yet. False where memory is short. */
static inline bool tstring_resize(tstring *s, size_t size) {
  size_t capacity = tstring_is_large(s) ? s->large.capacity : TSTRING_IN_PLACE;
  if (size > capacity) {
    size_t wanted = size > 2 * capacity ? size : 2 * capacity, old = tstring_size(s);
    /* One more for the NUL, and a multiple of 16. */
    wanted = ((wanted + 16) & ~(size_t)15) - 1;
    char *data = realloc(tstring_is_large(s) ? s->large.data : NULL, wanted + 1);
    if (data == NULL) return false;
    if (!tstring_is_large(s)) memcpy(data, s->small.data, old);
    s->large.data = data;
    s->large.capacity = wanted;
    s->large.size = TSTRING_LARGE;
  }
  if (tstring_is_large(s)) s->large.size = size << 2 | TSTRING_LARGE;
  else s->small.size = (uint8_t)(size << 2);
  tstring_data(s)[size] = '\0';
  return true;
}

#endif
