package org.palmtop.core.engine;

import ai.onnxruntime.genai.GenAIException;
import ai.onnxruntime.genai.Generator;
import ai.onnxruntime.genai.Tensor;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.palmtop.core.PalmtopException;
import org.palmtop.core.bundle.Manifest;

/**
 * Arrays that the graph reads in place, outside the Java heap. genai keeps no reference to them: they are freed after
 * the generator. An array is null where the graph lacks the input.
 */
final class DecoderInputs {
    final ByteBuffer mediaIndex;
    final ByteBuffer mediaFeatures;
    final ByteBuffer adapterGates;
    final ByteBuffer ropeLong;
    final int mediaRows;
    private final int hiddenSize;
    private final int context;
    private final List<ByteBuffer> owned = new ArrayList<ByteBuffer>();
    private final List<Tensor> tensors = new ArrayList<Tensor>();

    DecoderInputs(Manifest manifest, MemoryPlan plan) {
        boolean hasMedia = manifest.vision != null || manifest.audio != null;
        boolean hasGates = manifest.adapterMode.equals("gated") && !manifest.adapters.isEmpty();
        context = plan.context;
        hiddenSize = manifest.decoder.hiddenSize;
        mediaRows = hasMedia ? plan.mediaRows : 0;
        try {
            mediaIndex = hasMedia ? allocate(8L * context) : null;
            mediaFeatures = hasMedia ? allocate(4L * mediaRows * hiddenSize) : null;
            adapterGates = hasGates ? allocate(4L * manifest.adapters.size()) : null;
            ropeLong = manifest.decoder.originalContext != null ? allocate(1) : null;
        } catch (PalmtopException error) {
            close();
            throw error;
        }
    }

    /** Hand the arrays to a generator: before its first append, and never again. */
    void giveTo(Generator generator) throws GenAIException {
        give(generator, "media_index", mediaIndex, Tensor.ElementType.int64, context);
        give(generator, "media_features", mediaFeatures, Tensor.ElementType.float32, mediaRows, hiddenSize);
        int gates = adapterGates == null ? 0 : adapterGates.capacity() / 4;
        give(generator, "adapter_gates", adapterGates, Tensor.ElementType.float32, gates);
        give(generator, "rope_long", ropeLong, Tensor.ElementType.bool, 1);
    }

    boolean isRopeLong() {
        return ropeLong != null && ropeLong.get(0) != 0;
    }

    float[] gates() {
        float[] gates = new float[adapterGates == null ? 0 : adapterGates.capacity() / 4];
        for (int i = 0; i < gates.length; i++) {
            gates[i] = adapterGates.getFloat(4 * i);
        }
        return gates;
    }

    void setGates(float[] gates) {
        for (int i = 0; adapterGates != null && i < gates.length; i++) {
            adapterGates.putFloat(4 * i, gates[i]);
        }
    }

    boolean hasGates(float[] gates) {
        return adapterGates == null || Arrays.equals(gates(), gates);
    }

    /** Free everything; the generator must be gone. */
    void close() {
        for (Tensor tensor : tensors) {
            tensor.close();
        }
        tensors.clear();
        for (ByteBuffer memory : owned) {
            Native.free(memory);
        }
        owned.clear();
    }

    private void give(Generator generator, String name, ByteBuffer data, Tensor.ElementType type, long... shape)
            throws GenAIException {
        if (data != null) {
            Tensor tensor = new Tensor(data, shape, type);
            tensors.add(tensor);
            generator.setModelInput(name, tensor);
        }
    }

    private ByteBuffer allocate(long bytes) {
        ByteBuffer memory = Native.allocate(bytes);
        if (memory == null) {
            throw new PalmtopException(
                    PalmtopException.Kind.MEMORY,
                    "a conversation needs " + MemoryPlan.megabytes(bytes) + " for images and sounds, which the system "
                            + "does not give; close other apps or load with a shorter context");
        }
        owned.add(memory);
        return memory.order(ByteOrder.nativeOrder());
    }
}
