/* Reads records from a FIFO for PipeModeDataset.

   Python makes a reader for an open FIFO, by tf_toolkit_reader_new(), and deletes it. In between the operation
   TfToolkitReadRecords of TensorFlow hands out the records that come through. It is registered through TensorFlow's C API,
   so this is compiled for no release of it, and without it. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "crc32c.h"
#include "tensorflow_c_api.h"
#include "tstring.h"

enum format { RECORD_IO, TF_RECORD, TEXT_LINE };

/* How a step ended. NOTHING_YET: the writer has not written, or has not come. */
enum state { DONE, NOTHING_YET, END, FAILED };

enum {
  /* A line that fits is copied once, into memory of its size. */
  BUFFER_BYTES = 1 << 18,
  /* At once, into the buffer: what has just been copied is still in the processor's cache. */
  READ_BYTES = 1 << 16,
  /* What is handed out at once where no number of records is asked for. */
  CHUNK_BYTES = 1 << 18,
  /* Memory is asked for as the stream comes: a length says nothing. */
  STEP_BYTES = 1 << 20,
  /* What is still to come of a record goes past the buffer from here on. */
  DIRECT_BYTES = 1 << 14,
  /* And so much of what follows it into the buffer: the next header, and little that would be copied twice. */
  AHEAD_BYTES = 1 << 12,
  /* Then the operation comes back, so that an iterator can be ended whose writer does nothing. */
  WAIT_MILLISECONDS = 100,
  /* Some batches; the C library goes up to twice as much by itself. */
  KEPT_BYTES = 1 << 25,
  LENGTH_BYTES = 8,
  CRC_BYTES = 4,
  RECORD_IO_HEADER_BYTES = 8,
};

static const uint32_t RECORD_IO_MAGIC = 0xced7230a;
static const uint32_t RECORD_IO_LENGTH_BITS = 29;
/* No stream holds a record of 2^40 bytes. */
static const unsigned LONGEST_RECORD_BITS = 40;
static const char CUT_IN_RECORD[] = "the stream ends inside the record";

typedef struct reader {
  struct reader *next;
  int64_t id;
  pthread_mutex_t lock;
  int fd;
  /* Which has an end of its own. */
  bool is_file;
  enum format format;
  bool verify;
  int64_t may_skip, skipped;
  int64_t interval;
  /* Channel and epoch, for messages. */
  char *name;
  /* Once it failed. */
  char error[1024];
  bool ended;
  /* Of the stream's next byte, of the record that is being read, and how many came before it. */
  uint64_t offset, record_offset, number;
  uint64_t nanoseconds;
  /* Bytes that were read, from start to end, and nothing was made of yet. */
  size_t start, end;
  char buffer[BUFFER_BYTES];
  /* So many of them, from start, have no newline. */
  size_t searched;
  /* The record that is being read, and what is still to come of its frame. */
  tstring record;
  bool in_frame, more_frames;
  uint64_t missing;
  uint32_t padding;
  /* Whole records that were not handed out yet. */
  tstring *records;
  size_t count, room, bytes;
  /* For more of them, although some are there. */
  bool waits;
} reader;

static reader *readers;
static int64_t last_id;
static pthread_mutex_t readers_lock = PTHREAD_MUTEX_INITIALIZER;

static uint32_t u32(const char *at) {
  const unsigned char *byte = (const unsigned char *)at;
  return byte[0] | byte[1] << 8 | byte[2] << 16 | (uint32_t)byte[3] << 24;
}

static enum state fail(reader *r, const char *format, ...) {
  va_list arguments;
  size_t used = (size_t)snprintf(r->error, sizeof r->error, "%s, record %llu, byte %llu: ", r->name,
                                 (unsigned long long)r->number, (unsigned long long)r->record_offset);
  if (used >= sizeof r->error) return FAILED;
  va_start(arguments, format);
  vsnprintf(r->error + used, sizeof r->error - used, format, arguments);
  va_end(arguments);
  return FAILED;
}

/* ---- bytes ---- */

/* Read at most that many bytes; *got of them where the state is DONE. `ahead` goes on after `into`. */
static enum state receive(reader *r, struct iovec into, struct iovec ahead, size_t *got) {
  struct iovec places[] = {into, ahead};
  for (;;) {
    ssize_t came = r->ended ? 0 : readv(r->fd, places, 2);
    if (came > 0) {
      *got = (size_t)came;
      return DONE;
    }
    if (r->ended) return END;
    if (came < 0 && errno != EAGAIN && errno != EINTR) return fail(r, "it cannot be read: %s", strerror(errno));
    struct pollfd fifo = {.fd = r->fd, .events = POLLIN};
    int ready = poll(&fifo, 1, r->waits || r->count == 0 ? WAIT_MILLISECONDS : 0);
    if (ready < 0 && errno != EINTR) return fail(r, "it cannot be waited for: %s", strerror(errno));
    if (ready <= 0) return NOTHING_YET;
    /* Without POLLIN the last writer has gone; before one came there is no POLLHUP: pipe(7), poll(2). */
    if (!(fifo.revents & POLLIN) || (came == 0 && r->is_file)) r->ended = true;
  }
}

/* Have that many bytes in the buffer. END where the stream has fewer. */
static enum state fill(reader *r, size_t size) {
  while (r->end - r->start < size) {
    if (r->start == r->end || BUFFER_BYTES - r->end < READ_BYTES) {
      memmove(r->buffer, r->buffer + r->start, r->end - r->start);
      r->end -= r->start;
      r->start = 0;
    }
    size_t room = BUFFER_BYTES - r->end, got = 0;
    struct iovec into = {r->buffer + r->end, room < READ_BYTES ? room : READ_BYTES};
    enum state state = receive(r, into, (struct iovec){NULL, 0}, &got);
    if (state != DONE) return state;
    r->end += got;
  }
  return DONE;
}

static void take(reader *r, size_t size) {
  r->start += size;
  r->offset += size;
}

/* ---- frames ---- */

/* The record grows by what is missing of its frame. */
static enum state payload(reader *r) {
  while (r->missing > 0) {
    size_t have = tstring_size(&r->record), there = r->end - r->start, got = 0;
    size_t piece = r->missing < STEP_BYTES ? (size_t)r->missing : STEP_BYTES;
    if (there == 0 && r->missing < DIRECT_BYTES) {
      enum state state = fill(r, 1);
      if (state != DONE) return state == END ? fail(r, CUT_IN_RECORD) : state;
      there = r->end - r->start;
    }
    if (!tstring_resize(&r->record, have + piece)) return fail(r, "there is no memory for its %zu bytes", have + piece);
    char *into = tstring_data(&r->record) + have;
    if (there > 0) {
      got = piece < there ? piece : there;
      memcpy(into, r->buffer + r->start, got);
      take(r, got);
    } else {
      struct iovec ahead = {r->buffer, piece == r->missing ? AHEAD_BYTES : 0};
      enum state state = receive(r, (struct iovec){into, piece}, ahead, &got);
      r->start = 0;
      r->end = got > piece ? got - piece : 0;
      got -= r->end;
      r->offset += got;
      if (state != DONE) {
        tstring_resize(&r->record, have);
        return state == END ? fail(r, CUT_IN_RECORD) : state;
      }
    }
    tstring_resize(&r->record, have + got);
    r->missing -= got;
  }
  return DONE;
}

/* The header's bytes, which are not there. */
static enum state no_header(reader *r, enum state state) {
  if (state != END) return state;
  if (r->start < r->end) return fail(r, "the stream ends inside the record's header");
  return r->more_frames ? fail(r, "the stream ends between the parts of the record") : END;
}

static enum state bad_header(reader *r, const char *what) {
  bool gzip = r->offset == 0 && memcmp(r->buffer + r->start, "\x1f\x8b", 2) == 0;
  return fail(r, "%s%s", what,
              gzip ? "; this is a gzip stream: say compression='Gzip' of the channel, and it comes unzipped" : "");
}

static enum state read_tf_record(reader *r) {
  for (;;) {
    if (!r->in_frame) {
      r->record_offset = r->offset;
      enum state state = fill(r, LENGTH_BYTES + CRC_BYTES);
      if (state != DONE) return no_header(r, state);
      const char *header = r->buffer + r->start;
      if (r->verify && crc32c_masked(header, LENGTH_BYTES) != u32(header + LENGTH_BYTES))
        return bad_header(r, "the checksum of the record's length is wrong");
      r->missing = u32(header) | (uint64_t)u32(header + 4) << 32;
      if (r->missing >> LONGEST_RECORD_BITS) return bad_header(r, "the record's length is more than any stream has");
      take(r, LENGTH_BYTES + CRC_BYTES);
      r->in_frame = true;
    }
    enum state state = payload(r);
    if (state != DONE) return state;
    state = fill(r, CRC_BYTES);
    if (state != DONE) return state == END ? fail(r, CUT_IN_RECORD) : state;
    uint32_t stated = u32(r->buffer + r->start);
    take(r, CRC_BYTES);
    r->in_frame = false;
    if (!r->verify || crc32c_masked(tstring_data(&r->record), tstring_size(&r->record)) == stated) {
      r->skipped = 0;
      return DONE;
    }
    if (r->skipped++ == r->may_skip) return fail(r, "the checksum of the record is wrong");
    tstring_clear(&r->record);
    r->number++;
  }
}

static enum state read_record_io(reader *r) {
  for (;;) {
    if (!r->in_frame) {
      enum state state = fill(r, r->padding);
      if (state != DONE) return state == END ? fail(r, "the stream ends inside the padding before it") : state;
      take(r, r->padding);
      r->padding = 0;
      if (!r->more_frames) r->record_offset = r->offset;
      state = fill(r, RECORD_IO_HEADER_BYTES);
      if (state != DONE) return no_header(r, state);
      const char *header = r->buffer + r->start;
      if (u32(header) != RECORD_IO_MAGIC) return bad_header(r, "there is no RecordIO header");
      uint32_t word = u32(header + 4), flag = word >> RECORD_IO_LENGTH_BITS;
      if (!r->more_frames && flag > 1) return bad_header(r, "this is a later part of a record that has no first one");
      r->more_frames = r->more_frames ? flag == 2 : flag == 1;
      r->missing = word & ((1u << RECORD_IO_LENGTH_BITS) - 1);
      r->padding = -(uint32_t)r->missing & 3;
      take(r, RECORD_IO_HEADER_BYTES);
      r->in_frame = true;
    }
    enum state state = payload(r);
    if (state != DONE) return state;
    r->in_frame = false;
    if (!r->more_frames) return DONE;
  }
}

/* Bytes of the line go from the buffer into the record. */
static enum state add_text(reader *r, size_t size) {
  size_t have = tstring_size(&r->record);
  if (!tstring_resize(&r->record, have + size)) return fail(r, "there is no memory for its %zu bytes", have + size);
  memcpy(tstring_data(&r->record) + have, r->buffer + r->start, size);
  take(r, size);
  r->searched = 0;
  return DONE;
}

static enum state read_text_line(reader *r) {
  if (!r->in_frame) r->record_offset = r->offset;
  for (;;) {
    enum state state = fill(r, r->offset == 0 && r->searched == 0 ? 2 : r->searched + 1);
    if (state != DONE && state != END) return state;
    const char *from = r->buffer + r->start;
    size_t there = r->end - r->start;
    if (r->offset == 0 && there >= 2 && memcmp(from, "\x1f\x8b", 2) == 0) return bad_header(r, "this is no text");
    const char *newline = memchr(from + r->searched, '\n', there - r->searched);
    if (newline != NULL) {
      state = add_text(r, (size_t)(newline - from));
      if (state != DONE) return state;
      take(r, 1);
      r->in_frame = false;
      return DONE;
    }
    r->searched = there;
    if (state == DONE && there < BUFFER_BYTES) continue;
    if (state == END && there == 0 && !r->in_frame) return END;
    /* The last line, or the beginning of one that is longer than the buffer. */
    bool is_last = state == END;
    state = add_text(r, there);
    r->in_frame = !is_last;
    if (state != DONE || is_last) return state;
  }
}

/* ---- records ---- */

static enum state read_record(reader *r) {
  switch (r->format) {
    case RECORD_IO: return read_record_io(r);
    case TF_RECORD: return read_tf_record(r);
    default: return read_text_line(r);
  }
}

static bool keep(reader *r) {
  if (r->count == r->room) {
    size_t room = r->room == 0 ? 1024 : 2 * r->room;
    tstring *records = realloc(r->records, room * sizeof *records);
    if (records == NULL) return false;
    r->records = records;
    r->room = room;
  }
  r->bytes += sizeof r->record + tstring_size(&r->record);
  r->records[r->count++] = r->record;
  memset(&r->record, 0, sizeof r->record);
  return true;
}

/* Read as many records as are wanted; for 0, those that come without waiting. */
static enum state collect(reader *r, size_t wanted) {
  r->waits = wanted > 0;
  struct timespec from, to;
  clock_gettime(CLOCK_MONOTONIC, &from);
  enum state state = DONE;
  while (wanted == 0 ? r->bytes < CHUNK_BYTES : r->count < wanted) {
    state = read_record(r);
    if (state != DONE) break;
    if (!keep(r)) {
      state = fail(r, "there is no memory for it");
      break;
    }
    r->number++;
    if (r->interval > 0 && r->number % (uint64_t)r->interval == 0) {
      printf("PipeModeDataset: %s: %llu records\n", r->name, (unsigned long long)r->number);
      fflush(stdout);
    }
  }
  clock_gettime(CLOCK_MONOTONIC, &to);
  r->nanoseconds += (uint64_t)(to.tv_sec - from.tv_sec) * 1000000000u + (uint64_t)to.tv_nsec - (uint64_t)from.tv_nsec;
  return state;
}

static void free_reader(reader *r) {
  if (r->fd >= 0) close(r->fd);
  for (size_t index = 0; index < r->count; index++) tstring_clear(&r->records[index]);
  tstring_clear(&r->record);
  free(r->records);
  free(r->name);
  pthread_mutex_destroy(&r->lock);
  free(r);
}

/* ---- for Python ---- */

/* A reader of the FIFO, which is its own from now on and does not block; with an error it has that alone, and no FIFO. 0
   where memory is short. */
int64_t tf_toolkit_reader_new(int fd, int format, bool verify, int64_t may_skip, int64_t interval, const char *name,
                              const char *error) {
  reader *r = calloc(1, sizeof *r);
  if (r == NULL) return 0;
  pthread_mutex_init(&r->lock, NULL);
  struct stat status;
  r->fd = fd;
  r->is_file = fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
  r->format = (enum format)format;
  r->verify = verify;
  r->may_skip = may_skip;
  r->interval = interval;
  r->name = strdup(name);
  snprintf(r->error, sizeof r->error, "%s", error == NULL ? "" : error);
  pthread_mutex_lock(&readers_lock);
  r->id = ++last_id;
  r->next = readers;
  readers = r;
  pthread_mutex_unlock(&readers_lock);
  return r->id;
}

/* The reader, locked; NULL if there is none. */
static reader *find(int64_t id) {
  pthread_mutex_lock(&readers_lock);
  reader *r = readers;
  while (r != NULL && r->id != id) r = r->next;
  if (r != NULL) pthread_mutex_lock(&r->lock);
  pthread_mutex_unlock(&readers_lock);
  return r;
}

/* What has come through it so far. */
void tf_toolkit_reader_totals(int64_t id, uint64_t *nanoseconds, uint64_t *bytes) {
  reader *r = find(id);
  if (r == NULL) return;
  *nanoseconds = r->nanoseconds;
  *bytes = r->offset;
  pthread_mutex_unlock(&r->lock);
}

void tf_toolkit_reader_delete(int64_t id) {
  pthread_mutex_lock(&readers_lock);
  reader **place = &readers;
  while (*place != NULL && (*place)->id != id) place = &(*place)->next;
  reader *r = *place;
  if (r != NULL) *place = r->next;
  pthread_mutex_unlock(&readers_lock);
  if (r == NULL) return;
  /* Nobody finds it any more; whoever had found it is waited for. */
  pthread_mutex_lock(&r->lock);
  pthread_mutex_unlock(&r->lock);
  free_reader(r);
}

/* ---- for TensorFlow ---- */

static int64_t scalar_input(TF_OpKernelContext *context, int index, TF_Status *status) {
  TF_Tensor *tensor = NULL;
  int64_t value = 0;
  TF_GetInput(context, index, &tensor, status);
  if (TF_GetCode(status) == TF_OK) value = *(const int64_t *)TF_TensorData(tensor);
  if (tensor != NULL) TF_DeleteTensor(tensor);
  return value;
}

/* Give so many records away, and say whether there may be more. */
static void hand_out(reader *r, TF_OpKernelContext *context, int64_t count, bool ended, TF_Status *status) {
  TF_Tensor *records =
      TF_AllocateOutput(context, 0, TF_STRING, &count, 1, (size_t)count * sizeof(tstring), status);
  if (TF_GetCode(status) != TF_OK) return;
  if (count > 0) {
    memcpy(TF_TensorData(records), r->records, (size_t)count * sizeof(tstring));
    r->count = r->bytes = 0;
  }
  TF_DeleteTensor(records);
  TF_Tensor *more = TF_AllocateOutput(context, 1, TF_BOOL, NULL, 0, sizeof(bool), status);
  if (TF_GetCode(status) != TF_OK) return;
  *(bool *)TF_TensorData(more) = !ended || count > 0;
  TF_DeleteTensor(more);
}

static void compute(void *kernel, TF_OpKernelContext *context) {
  (void)kernel;
  TF_Status *status = TF_NewStatus();
  int64_t id = scalar_input(context, 0, status);
  size_t wanted = (size_t)scalar_input(context, 1, status);
  reader *r = find(id);
  if (TF_GetCode(status) == TF_OK && r == NULL) {
    /* Its iterator has ended, or waits for the FIFO. */
    hand_out(NULL, context, 0, true, status);
  } else if (TF_GetCode(status) == TF_OK) {
    enum state state = r->error[0] != '\0' ? FAILED : collect(r, wanted);
    bool all = wanted == 0 || r->count == wanted || state == END || state == FAILED;
    /* Records before a fault come before it. */
    if (state == FAILED && r->count == 0) TF_SetStatus(status, TF_INTERNAL, r->error);
    else hand_out(r, context, all ? (int64_t)r->count : 0, state == END, status);
  }
  if (r != NULL) pthread_mutex_unlock(&r->lock);
  if (TF_GetCode(status) != TF_OK) TF_OpKernelContext_Failure(context, status);
  TF_DeleteStatus(status);
}

static void *create(TF_OpKernelConstruction *construction) {
  (void)construction;
  return NULL;
}

static void destroy(void *kernel) { (void)kernel; }

static void infer_shapes(TF_ShapeInferenceContext *context, TF_Status *status) {
  TF_ShapeHandle *scalar = TF_ShapeInferenceContextScalar(context);
  TF_ShapeInferenceContextSetOutput(context, 1, scalar, status);
  TF_DeleteShapeHandle(scalar);
}

/* The C library gives the memory of a batch back to the kernel when that is freed, and takes it anew, page by page, for
   the next: that costs as much as reading. Once a block is freed it keeps twice its size: mallopt(3), M_MMAP_THRESHOLD. */
static void keep_memory(void) {
  void *volatile block = malloc(KEPT_BYTES / 2);
  free(block);
}

__attribute__((constructor)) static void register_operation(void) {
  crc32c_prepare();
  keep_memory();
  TF_Status *status = TF_NewStatus();
  TF_OpDefinitionBuilder *operation = TF_NewOpDefinitionBuilder("TfToolkitReadRecords");
  TF_OpDefinitionBuilderAddInput(operation, "reader: int64");
  TF_OpDefinitionBuilderAddInput(operation, "wanted: int64");
  TF_OpDefinitionBuilderAddOutput(operation, "records: string");
  TF_OpDefinitionBuilderAddOutput(operation, "more: bool");
  TF_OpDefinitionBuilderSetIsStateful(operation, true);
  TF_OpDefinitionBuilderSetShapeInferenceFunction(operation, infer_shapes);
  TF_RegisterOpDefinition(operation, status);
  if (TF_GetCode(status) == TF_OK) {
    TF_KernelBuilder *kernel = TF_NewKernelBuilder("TfToolkitReadRecords", "CPU", create, compute, destroy);
    TF_RegisterKernelBuilder("TfToolkitReadRecords", kernel, status);
  }
  if (TF_GetCode(status) != TF_OK) fprintf(stderr, "tf_toolkit: %s\n", TF_Message(status));
  TF_DeleteStatus(status);
}
