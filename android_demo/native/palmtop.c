/* libpalmtop.so: encoders through onnxruntime's C API, logits through genai's. See Native.java for the contract.
 *
 * Built without an NDK: no C library is linked but for the symbols below, which every Android has. Both libraries are
 * opened by name, so that this file needs their headers alone, and any of their versions since ONNX_API will do.
 */
#include <dlfcn.h>
#include <jni.h>
#include <stddef.h>
#include <stdint.h>

#include "onnxruntime_c_api.h"

#define ONNX_API 17 /* onnxruntime 1.17: everything used here is older */
#define MAX_TENSORS 16
#define MAX_RANK 8
#define LOG_ERRORS ORT_LOGGING_LEVEL_ERROR

void *calloc(size_t, size_t);
void free(void *);

static const OrtApi *api;
static OrtEnv *env;
static OrtMemoryInfo *memory;

typedef struct OgaResult OgaResult;
typedef struct OgaTensor OgaTensor;

static struct {
    OgaResult *(*logits)(void *, OgaTensor **);
    OgaResult *(*rank)(OgaTensor *, size_t *);
    OgaResult *(*shape)(OgaTensor *, int64_t *, size_t);
    OgaResult *(*type)(OgaTensor *, int *);
    OgaResult *(*data)(OgaTensor *, void **);
    void (*destroy_tensor)(OgaTensor *);
    const char *(*message)(const OgaResult *);
    void (*destroy_result)(OgaResult *);
} genai;

static void throw(JNIEnv *jni, const char *message) {
    jclass kind = (*jni)->FindClass(jni, "org/palmtop/core/engine/Native$NativeException");
    jmethodID make = kind ? (*jni)->GetMethodID(jni, kind, "<init>", "(Ljava/lang/String;)V") : NULL;
    /* What libraries say may hold bytes that are not UTF-8 (a file name); Java's reader of it may not see them. */
    char clean[1024];
    size_t n = 0;
    for (; message[n] && n + 1 < sizeof clean; n++) clean[n] = (unsigned char)message[n] < 0x80 ? message[n] : '?';
    clean[n] = 0;
    jstring text = make ? (*jni)->NewStringUTF(jni, clean) : NULL;
    jobject error = text ? (*jni)->NewObject(jni, kind, make, text) : NULL;
    if (error) (*jni)->Throw(jni, (jthrowable)error);
}

/* 1 and an exception for an error. */
static int failed(JNIEnv *jni, OrtStatus *status) {
    if (!status) return 0;
    throw(jni, api->GetErrorMessage(status));
    api->ReleaseStatus(status);
    return 1;
}

static int genai_failed(JNIEnv *jni, OgaResult *result) {
    if (!result) return 0;
    throw(jni, genai.message(result));
    genai.destroy_result(result);
    return 1;
}

static const OrtApiBase *base(JNIEnv *jni) {
    void *library = dlopen("libonnxruntime.so", RTLD_NOW | RTLD_GLOBAL);
    const OrtApiBase *(*get)(void) = library ? (const OrtApiBase *(*)(void))dlsym(library, "OrtGetApiBase") : NULL;
    if (!get) {
        const char *why = dlerror();
        throw(jni, why ? why : "libonnxruntime.so has no OrtGetApiBase");
        return NULL;
    }
    return get();
}

/* Once; Java holds the class's lock in every function that asks (synchronized). */
static int ready(JNIEnv *jni) {
    if (memory) return 1;
    const OrtApiBase *library = base(jni);
    if (!library) return 0;
    api = library->GetApi(ONNX_API);
    if (!api) {
        throw(jni, "libonnxruntime.so is older than 1.17");
        return 0;
    }
    if (!env && failed(jni, api->CreateEnv(LOG_ERRORS, "palmtop", &env))) return 0;
    if (failed(jni, api->DisableTelemetryEvents(env))) return 0;
    return !failed(jni, api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
}

static OrtSessionOptions *session_options(JNIEnv *jni, jint threads) {
    OrtSessionOptions *options = NULL;
    if (failed(jni, api->CreateSessionOptions(&options))) return NULL;
    /* An arena keeps its largest size; without it memory returns after use. Idle threads must not drain a battery. */
    if (failed(jni, api->DisableCpuMemArena(options)) ||
        failed(jni, api->SetSessionLogSeverityLevel(options, LOG_ERRORS)) ||
        failed(jni, api->AddSessionConfigEntry(options, "session.intra_op.allow_spinning", "0")) ||
        (threads > 0 && failed(jni, api->SetIntraOpNumThreads(options, threads)))) {
        api->ReleaseSessionOptions(options);
        return NULL;
    }
    return options;
}

JNIEXPORT jlong JNICALL Java_org_palmtop_core_engine_Native_open(JNIEnv *jni, jclass type, jstring path, jint threads) {
    (void)type;
    OrtSession *session = NULL;
    if (!ready(jni)) return 0;
    OrtSessionOptions *options = session_options(jni, threads);
    if (!options) return 0;
    const char *name = (*jni)->GetStringUTFChars(jni, path, NULL);
    if (name) {
        failed(jni, api->CreateSession(env, name, options, &session));
        (*jni)->ReleaseStringUTFChars(jni, path, name);
    }
    api->ReleaseSessionOptions(options);
    return (jlong)(intptr_t)session;
}

JNIEXPORT void JNICALL Java_org_palmtop_core_engine_Native_close(JNIEnv *jni, jclass type, jlong session) {
    (void)jni, (void)type;
    if (session) api->ReleaseSession((OrtSession *)(intptr_t)session);
}

/* Names of an array of strings; all or none. */
static int take_names(JNIEnv *jni, jobjectArray array, jsize count, jstring *strings, const char **names) {
    for (jsize i = 0; i < count; i++) {
        strings[i] = (jstring)(*jni)->GetObjectArrayElement(jni, array, i);
        names[i] = strings[i] ? (*jni)->GetStringUTFChars(jni, strings[i], NULL) : NULL;
        if (!names[i]) {
            while (i-- > 0) (*jni)->ReleaseStringUTFChars(jni, strings[i], names[i]);
            return 0;
        }
    }
    return 1;
}

static void give_names(JNIEnv *jni, jsize count, jstring *strings, const char **names) {
    for (jsize i = 0; i < count; i++) (*jni)->ReleaseStringUTFChars(jni, strings[i], names[i]);
}

static size_t size_of(jint type) {
    return type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT   ? 4
           : type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 ? 8
           : type == ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL  ? 1
                                                         : 0;
}

/* A tensor over a direct buffer, which must hold exactly what the shape says or more. */
static OrtValue *tensor(JNIEnv *jni, jobject buffer, jlongArray shape, jint type) {
    int64_t dims[MAX_RANK];
    jsize rank = shape ? (*jni)->GetArrayLength(jni, shape) : MAX_RANK + 1;
    void *data = buffer ? (*jni)->GetDirectBufferAddress(jni, buffer) : NULL;
    int64_t capacity = data ? (*jni)->GetDirectBufferCapacity(jni, buffer) : 0;
    int64_t bytes = (int64_t)size_of(type);
    if (!data || rank > MAX_RANK || !bytes) {
        throw(jni, "an input is no direct buffer of a known type and shape");
        return NULL;
    }
    (*jni)->GetLongArrayRegion(jni, shape, 0, rank, (jlong *)dims);
    for (jsize i = 0; i < rank; i++) {
        if (dims[i] < 0 || (dims[i] > 0 && bytes > capacity / dims[i])) {
            throw(jni, "an input's buffer is smaller than its shape");
            return NULL;
        }
        bytes *= dims[i];
    }
    OrtValue *value = NULL;
    failed(jni, api->CreateTensorWithDataAsOrtValue(memory, data, (size_t)bytes, dims, (size_t)rank,
                                                    (ONNXTensorElementDataType)type, &value));
    return value;
}

/* An output as a Java array; NULL and an exception if it does not hold floats. */
static jfloatArray floats(JNIEnv *jni, OrtValue *value) {
    OrtTensorTypeAndShapeInfo *info = NULL;
    ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    size_t count = 0;
    void *data = NULL;
    if (failed(jni, api->GetTensorTypeAndShape(value, &info))) return NULL;
    int bad = failed(jni, api->GetTensorElementType(info, &type)) ||
              failed(jni, api->GetTensorShapeElementCount(info, &count)) ||
              failed(jni, api->GetTensorMutableData(value, &data));
    api->ReleaseTensorTypeAndShapeInfo(info);
    if (bad) return NULL;
    if (type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || count > INT32_MAX) {
        throw(jni, "an output does not hold float32 numbers");
        return NULL;
    }
    jfloatArray array = (*jni)->NewFloatArray(jni, (jsize)count);
    if (array) (*jni)->SetFloatArrayRegion(jni, array, 0, (jsize)count, (const jfloat *)data);
    return array;
}

static jobjectArray run_named(JNIEnv *jni, OrtSession *session, const char **input_names, OrtValue **inputs,
                              jsize input_count, const char **output_names, jsize output_count) {
    OrtValue *outputs[MAX_TENSORS] = {0};
    jobjectArray result = NULL;
    if (!failed(jni, api->Run(session, NULL, input_names, (const OrtValue *const *)inputs, (size_t)input_count,
                              output_names, (size_t)output_count, outputs))) {
        jclass kind = (*jni)->FindClass(jni, "[F");
        result = kind ? (*jni)->NewObjectArray(jni, output_count, kind, NULL) : NULL;
    }
    for (jsize i = 0; i < output_count; i++) {
        jfloatArray array = result && outputs[i] && !(*jni)->ExceptionCheck(jni) ? floats(jni, outputs[i]) : NULL;
        if (array) {
            (*jni)->SetObjectArrayElement(jni, result, i, array);
            (*jni)->DeleteLocalRef(jni, array);
        }
        if (outputs[i]) api->ReleaseValue(outputs[i]);
    }
    return result;
}

JNIEXPORT jobjectArray JNICALL Java_org_palmtop_core_engine_Native_run(JNIEnv *jni, jclass kind, jlong session,
                                                                       jobjectArray input_names, jobjectArray buffers,
                                                                       jobjectArray shapes, jintArray types,
                                                                       jobjectArray output_names) {
    (void)kind;
    jstring input_strings[MAX_TENSORS], output_strings[MAX_TENSORS];
    const char *inputs_named[MAX_TENSORS], *outputs_named[MAX_TENSORS];
    OrtValue *inputs[MAX_TENSORS] = {0};
    jint numbers[MAX_TENSORS];
    jobjectArray result = NULL;
    jsize input_count = (*jni)->GetArrayLength(jni, input_names), made = 0;
    jsize output_count = (*jni)->GetArrayLength(jni, output_names);
    if (!session || input_count > MAX_TENSORS || output_count > MAX_TENSORS ||
        (*jni)->GetArrayLength(jni, buffers) != input_count || (*jni)->GetArrayLength(jni, shapes) != input_count ||
        (*jni)->GetArrayLength(jni, types) != input_count) {
        throw(jni, "the session is closed, or names, inputs, shapes and types differ in number");
        return NULL;
    }
    (*jni)->GetIntArrayRegion(jni, types, 0, input_count, numbers);
    if (!take_names(jni, input_names, input_count, input_strings, inputs_named)) return NULL;
    if (take_names(jni, output_names, output_count, output_strings, outputs_named)) {
        while (made < input_count) {
            jobject buffer = (*jni)->GetObjectArrayElement(jni, buffers, made);
            jlongArray shape = (jlongArray)(*jni)->GetObjectArrayElement(jni, shapes, made);
            inputs[made] = tensor(jni, buffer, shape, numbers[made]);
            if (!inputs[made]) break;
            made++;
        }
        if (made == input_count)
            result = run_named(jni, (OrtSession *)(intptr_t)session, inputs_named, inputs, input_count, outputs_named,
                               output_count);
        while (made-- > 0) api->ReleaseValue(inputs[made]);
        give_names(jni, output_count, output_strings, outputs_named);
    }
    give_names(jni, input_count, input_strings, inputs_named);
    return result;
}

static int genai_ready(JNIEnv *jni) {
    if (genai.destroy_result) return 1;
    void *library = dlopen("libonnxruntime-genai.so", RTLD_NOW | RTLD_GLOBAL);
    struct {
        const char *name;
        void **place;
    } wanted[] = {
        {"OgaGenerator_GetLogits", (void **)&genai.logits}, {"OgaTensorGetShapeRank", (void **)&genai.rank},
        {"OgaTensorGetShape", (void **)&genai.shape},       {"OgaTensorGetType", (void **)&genai.type},
        {"OgaTensorGetData", (void **)&genai.data},         {"OgaDestroyTensor", (void **)&genai.destroy_tensor},
        {"OgaResultGetError", (void **)&genai.message},     {"OgaDestroyResult", (void **)&genai.destroy_result},
    };
    for (size_t i = 0; library && i < sizeof wanted / sizeof *wanted; i++) {
        *wanted[i].place = dlsym(library, wanted[i].name);
        if (!*wanted[i].place) library = NULL;
    }
    if (!library) {
        genai.destroy_result = NULL;
        const char *why = dlerror();
        throw(jni, why ? why : "libonnxruntime-genai.so lacks a function");
    }
    return library != NULL;
}

JNIEXPORT jfloatArray JNICALL Java_org_palmtop_core_engine_Native_logits(JNIEnv *jni, jclass kind, jlong generator) {
    (void)kind;
    OgaTensor *value = NULL;
    int64_t dims[MAX_RANK];
    size_t rank = 0, count = 1;
    int type = 0;
    void *data = NULL;
    jfloatArray array = NULL;
    if (!generator) {
        throw(jni, "the generator is closed");
        return NULL;
    }
    if (!genai_ready(jni) || genai_failed(jni, genai.logits((void *)(intptr_t)generator, &value))) return NULL;
    if (!genai_failed(jni, genai.rank(value, &rank)) && !genai_failed(jni, genai.type(value, &type))) {
        if (rank > MAX_RANK || type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
            throw(jni, "the logits are not float32 numbers");
        } else if (!genai_failed(jni, genai.shape(value, dims, rank)) && !genai_failed(jni, genai.data(value, &data))) {
            for (size_t i = 0; i < rank; i++) count *= (size_t)dims[i];
            array = (*jni)->NewFloatArray(jni, (jsize)count);
            if (array) (*jni)->SetFloatArrayRegion(jni, array, 0, (jsize)count, (const jfloat *)data);
        }
    }
    genai.destroy_tensor(value);
    return array;
}

JNIEXPORT jobject JNICALL Java_org_palmtop_core_engine_Native_allocate(JNIEnv *jni, jclass kind, jlong bytes) {
    (void)kind;
    void *place = bytes > 0 && bytes <= INT32_MAX ? calloc(1, (size_t)bytes) : NULL;
    return place ? (*jni)->NewDirectByteBuffer(jni, place, bytes) : NULL;
}

JNIEXPORT void JNICALL Java_org_palmtop_core_engine_Native_free(JNIEnv *jni, jclass kind, jobject buffer) {
    (void)kind;
    if (buffer) free((*jni)->GetDirectBufferAddress(jni, buffer));
}

JNIEXPORT jstring JNICALL Java_org_palmtop_core_engine_Native_version(JNIEnv *jni, jclass kind) {
    (void)kind;
    const OrtApiBase *library = base(jni);
    return library ? (*jni)->NewStringUTF(jni, library->GetVersionString()) : NULL;
}
