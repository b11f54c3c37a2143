/* What is used of TensorFlow's C API, which is the same for all its releases: tensorflow/c/{kernels,ops,tf_tensor,
   tf_status}.h. Declared here, so that no TensorFlow is needed to compile, and since those headers are C++. */
#ifndef TF_TOOLKIT_TENSORFLOW_C_API_H
#define TF_TOOLKIT_TENSORFLOW_C_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct TF_KernelBuilder TF_KernelBuilder;
typedef struct TF_OpDefinitionBuilder TF_OpDefinitionBuilder;
typedef struct TF_OpKernelConstruction TF_OpKernelConstruction;
typedef struct TF_OpKernelContext TF_OpKernelContext;
typedef struct TF_ShapeHandle TF_ShapeHandle;
typedef struct TF_ShapeInferenceContext TF_ShapeInferenceContext;
typedef struct TF_Status TF_Status;
typedef struct TF_Tensor TF_Tensor;

enum { TF_OK = 0, TF_RESOURCE_EXHAUSTED = 8, TF_INTERNAL = 13 };
enum { TF_STRING = 7, TF_BOOL = 10 };

TF_Status *TF_NewStatus(void);
void TF_DeleteStatus(TF_Status *);
int TF_GetCode(const TF_Status *);
void TF_SetStatus(TF_Status *, int code, const char *message);
const char *TF_Message(const TF_Status *);

TF_Tensor *TF_AllocateOutput(TF_OpKernelContext *, int index, int type, const int64_t *dimensions, int rank,
                             size_t bytes, TF_Status *);
void TF_GetInput(TF_OpKernelContext *, int index, TF_Tensor **, TF_Status *);
void *TF_TensorData(const TF_Tensor *);
void TF_DeleteTensor(TF_Tensor *);
void TF_OpKernelContext_Failure(TF_OpKernelContext *, TF_Status *);

TF_OpDefinitionBuilder *TF_NewOpDefinitionBuilder(const char *name);
void TF_OpDefinitionBuilderAddInput(TF_OpDefinitionBuilder *, const char *spec);
void TF_OpDefinitionBuilderAddOutput(TF_OpDefinitionBuilder *, const char *spec);
void TF_OpDefinitionBuilderSetIsStateful(TF_OpDefinitionBuilder *, bool);
void TF_OpDefinitionBuilderSetShapeInferenceFunction(TF_OpDefinitionBuilder *,
                                                     void (*)(TF_ShapeInferenceContext *, TF_Status *));
void TF_RegisterOpDefinition(TF_OpDefinitionBuilder *, TF_Status *);
TF_ShapeHandle *TF_ShapeInferenceContextScalar(TF_ShapeInferenceContext *);
void TF_ShapeInferenceContextSetOutput(TF_ShapeInferenceContext *, int index, TF_ShapeHandle *, TF_Status *);
void TF_DeleteShapeHandle(TF_ShapeHandle *);
TF_KernelBuilder *TF_NewKernelBuilder(const char *op, const char *device, void *(*create)(TF_OpKernelConstruction *),
                                      void (*compute)(void *, TF_OpKernelContext *), void (*destroy)(void *));
void TF_RegisterKernelBuilder(const char *name, TF_KernelBuilder *, TF_Status *);

#endif
