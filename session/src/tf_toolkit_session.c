/* Runs a model by TensorFlow's C API in one call: arrays of numpy to tensors, the run, and tensors to arrays.

   A Call is made once for a signature and the outputs that are asked for; any thread may run it, and several at once.
   Strings, and arrays that do not fit as they are, are left to tf_toolkit.serving.c_api, which does the same by ctypes.
   Nothing here knows a release of TensorFlow or numpy: arrays are read by Python's buffer protocol, and functions are
   looked up in the library that is loaded already. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dlfcn.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

/* ---- of tensorflow/c/{c_api,tf_tensor,tf_status}.h, which are C++ ---- */

typedef struct TF_Buffer TF_Buffer;
typedef struct TF_Operation TF_Operation;
typedef struct TF_Session TF_Session;
typedef struct TF_Status TF_Status;
typedef struct TF_Tensor TF_Tensor;

typedef struct {
  TF_Operation *operation;
  int index;
} TF_Output;

enum { TF_OK = 0 };

typedef struct {
  TF_Status *(*NewStatus)(void);
  void (*DeleteStatus)(TF_Status *);
  int (*GetCode)(const TF_Status *);
  const char *(*Message)(const TF_Status *);
  TF_Tensor *(*AllocateTensor)(int type, const int64_t *dimensions, int rank, size_t size);
  void (*DeleteTensor)(TF_Tensor *);
  void *(*TensorData)(const TF_Tensor *);
  int (*NumDims)(const TF_Tensor *);
  int64_t (*Dim)(const TF_Tensor *, int index);
  void (*SessionRun)(TF_Session *, const TF_Buffer *options,
                     const TF_Output *feeds, TF_Tensor *const *fed, int fed_count,
                     const TF_Output *fetches, TF_Tensor **fetched, int fetched_count,
                     const TF_Operation *const *targets, int target_count, TF_Buffer *metadata, TF_Status *);
} functions;

static const struct {
  const char *name;
  size_t offset;
} FUNCTIONS[] = {
    {"TF_NewStatus", offsetof(functions, NewStatus)},
    {"TF_DeleteStatus", offsetof(functions, DeleteStatus)},
    {"TF_GetCode", offsetof(functions, GetCode)},
    {"TF_Message", offsetof(functions, Message)},
    {"TF_AllocateTensor", offsetof(functions, AllocateTensor)},
    {"TF_DeleteTensor", offsetof(functions, DeleteTensor)},
    {"TF_TensorData", offsetof(functions, TensorData)},
    {"TF_NumDims", offsetof(functions, NumDims)},
    {"TF_Dim", offsetof(functions, Dim)},
    {"TF_SessionRun", offsetof(functions, SessionRun)},
};

_Static_assert(sizeof(Py_ssize_t) == sizeof(int64_t), "sizes of arrays are TensorFlow's");

/* ---- a call ---- */

/* Copies of so many bytes let other threads go on. */
enum { LARGE_BYTES = 1 << 16 };

/* As in tf_toolkit.serving: what takes longer may gain by TensorFlow's own threads (c_api.py); and what one run
   that was held up may add to the pace (pace.py). */
static const double LONG_SECONDS = 0.001, RISE = 1.5;

/* An input or output. */
typedef struct {
  PyObject *name, *dtype;
  int type;
} tensor;

typedef struct {
  PyObject_HEAD
  /* What it was made with, which all objects and places here belong to. */
  PyObject *arguments;
  void *library;
  functions tf;
  TF_Session *session;
  TF_Buffer *in_caller;
  PyObject *ndarray, *empty;
  tensor *inputs, *outputs;
  const TF_Output *feeds, *fetches;
  int input_count, output_count;
  /* Seconds that a run takes. */
  double pace;
} Call;

static PyObject *dtype_attribute;

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void copy(void *to, const void *from, size_t size) {
  if (size >= LARGE_BYTES) {
    Py_BEGIN_ALLOW_THREADS
    memcpy(to, from, size);
    Py_END_ALLOW_THREADS
  } else if (size > 0) {
    memcpy(to, from, size);
  }
}

/* What became of an input. */
enum fed { FED, UNFIT, RAISED };

/* Make a tensor of the input's array. */
static enum fed feed(Call *call, const tensor *input, PyObject *arrays, TF_Tensor **made) {
  PyObject *array = PyDict_GetItemWithError(arrays, input->name);
  if (array == NULL) return PyErr_Occurred() ? RAISED : UNFIT;
  if ((PyObject *)Py_TYPE(array) != call->ndarray) return UNFIT;
  PyObject *dtype = PyObject_GetAttr(array, dtype_attribute);
  if (dtype == NULL) return RAISED;
  Py_DECREF(dtype);
  if (dtype != input->dtype) return UNFIT;
  Py_buffer view;
  if (PyObject_GetBuffer(array, &view, PyBUF_ND) < 0) {
    /* It lies in another order. */
    if (!PyErr_ExceptionMatches(PyExc_ValueError)) return RAISED;
    PyErr_Clear();
    return UNFIT;
  }
  size_t size = (size_t)view.len;
  *made = call->tf.AllocateTensor(input->type, (const int64_t *)view.shape, view.ndim, size);
  void *data = *made == NULL ? NULL : call->tf.TensorData(*made);
  if (data != NULL) copy(data, view.buf, size);
  else if (*made == NULL || size > 0) PyErr_NoMemory();
  PyBuffer_Release(&view);
  return PyErr_Occurred() ? RAISED : FED;
}

/* An array with a copy of what is in the tensor: whoever gets it may write to it. */
static PyObject *array_of(Call *call, const tensor *output, const TF_Tensor *found) {
  int rank = call->tf.NumDims(found);
  PyObject *shape = PyTuple_New(rank);
  if (shape == NULL) return NULL;
  for (int index = 0; index < rank; index++) {
    PyObject *size = PyLong_FromLongLong(call->tf.Dim(found, index));
    if (size == NULL) {
      Py_DECREF(shape);
      return NULL;
    }
    PyTuple_SET_ITEM(shape, index, size);
  }
  PyObject *arguments[] = {shape, output->dtype};
  PyObject *array = PyObject_Vectorcall(call->empty, arguments, 2, NULL);
  Py_DECREF(shape);
  if (array == NULL) return NULL;
  Py_buffer view;
  if (PyObject_GetBuffer(array, &view, PyBUF_WRITABLE) < 0) {
    Py_DECREF(array);
    return NULL;
  }
  copy(view.buf, call->tf.TensorData(found), (size_t)view.len);
  PyBuffer_Release(&view);
  return array;
}

static PyObject *arrays_of(Call *call, TF_Tensor *const *fetched) {
  PyObject *arrays = PyDict_New();
  for (int index = 0; arrays != NULL && index < call->output_count; index++) {
    PyObject *array = array_of(call, &call->outputs[index], fetched[index]);
    if (array == NULL || PyDict_SetItem(arrays, call->outputs[index].name, array) < 0) Py_CLEAR(arrays);
    Py_XDECREF(array);
  }
  return arrays;
}

/* The arrays that come out, or the error of TensorFlow. */
static PyObject *session_run(Call *call, TF_Tensor *const *fed, TF_Tensor **fetched) {
  const TF_Buffer *options = call->pace > LONG_SECONDS ? NULL : call->in_caller;
  TF_Status *status = call->tf.NewStatus();
  double seconds;
  Py_BEGIN_ALLOW_THREADS
  double started = now();
  call->tf.SessionRun(call->session, options, call->feeds, fed, call->input_count, call->fetches, fetched,
                      call->output_count, NULL, 0, NULL, status);
  seconds = now() - started;
  Py_END_ALLOW_THREADS
  int code = call->tf.GetCode(status);
  PyObject *result;
  if (code == TF_OK) {
    double slowest = call->pace * RISE;
    call->pace = seconds < slowest ? seconds : slowest;
    result = arrays_of(call, fetched);
  } else {
    result = Py_BuildValue("(iy)", code, call->tf.Message(status));
  }
  call->tf.DeleteStatus(status);
  return result;
}

static PyObject *run(Call *call, PyObject *arrays) {
  if (!PyDict_CheckExact(arrays) || PyDict_GET_SIZE(arrays) != call->input_count) Py_RETURN_NONE;
  int count = call->input_count + call->output_count;
  TF_Tensor **tensors = PyMem_Calloc((size_t)count + 1, sizeof *tensors);
  if (tensors == NULL) return PyErr_NoMemory();
  enum fed how = FED;
  for (int index = 0; how == FED && index < call->input_count; index++)
    how = feed(call, &call->inputs[index], arrays, &tensors[index]);
  PyObject *result = how == UNFIT ? Py_None : NULL;
  Py_XINCREF(result);
  if (how == FED) result = session_run(call, tensors, tensors + call->input_count);
  for (int index = 0; index < count; index++)
    if (tensors[index] != NULL) call->tf.DeleteTensor(tensors[index]);
  PyMem_Free(tensors);
  return result;
}

/* ---- making one ---- */

/* The functions of the library, which is loaded already; to others its symbols stay unknown. */
static int look_up(Call *call, const char *path) {
  call->library = dlopen(path, RTLD_LAZY | RTLD_LOCAL | RTLD_NOLOAD);
  if (call->library == NULL) {
    PyErr_Format(PyExc_OSError, "%s is not loaded", path);
    return -1;
  }
  for (size_t index = 0; index < sizeof FUNCTIONS / sizeof *FUNCTIONS; index++) {
    void *found = dlsym(call->library, FUNCTIONS[index].name);
    if (found == NULL) {
      PyErr_Format(PyExc_OSError, "%s has no function %s", path, FUNCTIONS[index].name);
      return -1;
    }
    memcpy((char *)&call->tf + FUNCTIONS[index].offset, &found, sizeof found);
  }
  return 0;
}

/* The tensors of a tuple of (name, number of TensorFlow's type, numpy's dtype), and their places. */
static int take_apart(PyObject *tuple, PyObject *bytes, tensor **tensors, const TF_Output **places, int *count) {
  Py_ssize_t size = PyTuple_GET_SIZE(tuple);
  if (PyBytes_GET_SIZE(bytes) != size * (Py_ssize_t)sizeof **places) {
    PyErr_SetString(PyExc_ValueError, "there is not one place for each tensor");
    return -1;
  }
  *places = (const TF_Output *)PyBytes_AS_STRING(bytes);
  *count = (int)size;
  *tensors = PyMem_Calloc((size_t)size + 1, sizeof **tensors);
  if (*tensors == NULL) {
    PyErr_NoMemory();
    return -1;
  }
  for (Py_ssize_t index = 0; index < size; index++) {
    tensor *each = &(*tensors)[index];
    if (!PyArg_ParseTuple(PyTuple_GET_ITEM(tuple, index), "UiO", &each->name, &each->type, &each->dtype)) return -1;
  }
  return 0;
}

static PyObject *call_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
  const char *path;
  unsigned long long session, in_caller;
  PyObject *ndarray, *empty, *inputs, *feeds, *outputs, *fetches;
  if (keywords != NULL && PyDict_GET_SIZE(keywords) > 0)
    return PyErr_Format(PyExc_TypeError, "Call() takes no keyword arguments");
  if (!PyArg_ParseTuple(arguments, "yKKOOO!SO!S", &path, &session, &in_caller, &ndarray, &empty, &PyTuple_Type, &inputs,
                        &feeds, &PyTuple_Type, &outputs, &fetches))
    return NULL;
  Call *call = (Call *)type->tp_alloc(type, 0);
  if (call == NULL) return NULL;
  Py_INCREF(arguments);
  call->arguments = arguments;
  call->session = (TF_Session *)(uintptr_t)session;
  call->in_caller = (TF_Buffer *)(uintptr_t)in_caller;
  call->ndarray = ndarray;
  call->empty = empty;
  call->pace = HUGE_VAL;
  if (look_up(call, path) < 0 || take_apart(inputs, feeds, &call->inputs, &call->feeds, &call->input_count) < 0 ||
      take_apart(outputs, fetches, &call->outputs, &call->fetches, &call->output_count) < 0)
    Py_CLEAR(call);
  return (PyObject *)call;
}

static void call_dealloc(Call *call) {
  PyMem_Free(call->inputs);
  PyMem_Free(call->outputs);
  if (call->library != NULL) dlclose(call->library);
  Py_DECREF(call->arguments);
  Py_TYPE(call)->tp_free(call);
}

static PyMethodDef METHODS[] = {
    {"run", (PyCFunction)run, METH_O,
     "run(inputs) -> arrays by the outputs' names, or (code, message) of TensorFlow's error.\n\n"
     "None, and nothing was run, where inputs is not a dict of just the arrays that there must be, of the right types\n"
     "and in C's order."},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject CallType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "tf_toolkit_session.Call",
    .tp_doc = "Call(library, session, in_caller, ndarray, empty, inputs, feeds, outputs, fetches)\n\n"
              "A way to run a model. library is the path of TensorFlow's, as bytes. session and in_caller (RunOptions\n"
              "by which the thread that calls does the work) are addresses of what must be there whenever run() is\n"
              "called. ndarray and empty are numpy's. inputs and outputs are tuples of (name, number of TensorFlow's\n"
              "type, numpy's dtype), feeds and fetches the bytes of as many TF_Output.",
    .tp_basicsize = sizeof(Call),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = call_new,
    .tp_dealloc = (destructor)call_dealloc,
    .tp_methods = METHODS,
};

static int execute(PyObject *module) {
  if (dtype_attribute == NULL) dtype_attribute = PyUnicode_InternFromString("dtype");
  return dtype_attribute == NULL ? -1 : PyModule_AddType(module, &CallType);
}

static PyModuleDef_Slot SLOTS[] = {{Py_mod_exec, execute}, {0, NULL}};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT,
    .m_name = "tf_toolkit_session",
    .m_doc = "The compiled part of tf_toolkit.serving.c_api.",
    .m_slots = SLOTS,
};

PyMODINIT_FUNC PyInit_tf_toolkit_session(void) { return PyModuleDef_Init(&MODULE); }
