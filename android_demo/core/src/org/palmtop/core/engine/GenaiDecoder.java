package org.palmtop.core.engine;

import ai.onnxruntime.genai.GenAIException;
import ai.onnxruntime.genai.Generator;
import ai.onnxruntime.genai.GeneratorParams;
import ai.onnxruntime.genai.Model;
import java.lang.reflect.Field;
import org.palmtop.core.PalmtopException;
import org.palmtop.core.bundle.PalmtopBundle;

/** A decoder through genai's Java API; only its logits come through {@link Native}, which Java's API does not give. */
final class GenaiDecoder implements Decoder {
    private final PalmtopBundle bundle;
    private final DecoderInputs inputs;
    private Generator generator;

    GenaiDecoder(PalmtopBundle bundle, Model model, MemoryPlan plan) {
        this.bundle = bundle;
        inputs = new DecoderInputs(bundle.manifest(), plan);
        try (GeneratorParams parameters = new GeneratorParams(model)) {
            parameters.setSearchOption("max_length", plan.context);
            parameters.setSearchOption("batch_size", 1);
            parameters.setSearchOption("do_sample", false);
            generator = new Generator(model, parameters);
            inputs.giveTo(generator);
        } catch (GenAIException error) {
            close();
            throw failure(bundle, "prepare a conversation", error);
        }
    }

    @Override
    public DecoderInputs inputs() {
        return inputs;
    }

    @Override
    public int tokenCount() {
        try {
            return (int) live().tokenCount();
        } catch (GenAIException error) {
            throw failure(bundle, "count tokens", error);
        }
    }

    @Override
    public void append(int[] ids) {
        try {
            live().appendTokens(ids);
        } catch (GenAIException error) {
            throw failure(bundle, "run the decoder", error);
        }
    }

    @Override
    public float[] logits() {
        float[] logits;
        try {
            logits = Native.logits(handle(live()));
        } catch (Native.NativeException error) {
            throw failure(bundle, "give logits", error);
        }
        int expected = bundle.manifest().decoder.vocabSize;
        if (logits.length != expected) {
            throw PalmtopException.bundle(bundle.folder() + ": the decoder gives " + logits.length
                    + " logits, expected decoder.vocab_size, " + expected);
        }
        return logits;
    }

    @Override
    public void rewindTo(int count) {
        try {
            live().rewindTo(count);
        } catch (GenAIException error) {
            throw failure(bundle, "rewind", error);
        }
    }

    /** Free the generator, and only then its arrays. */
    @Override
    public void close() {
        if (generator != null) {
            generator.close();
            generator = null;
        }
        inputs.close();
    }

    static PalmtopException failure(PalmtopBundle bundle, String doing, Exception error) {
        String said = String.valueOf(error.getMessage()).trim().replaceAll("\\s+", " ");
        return new PalmtopException(
                PalmtopException.Kind.BUNDLE,
                bundle.folder() + ": onnxruntime-genai cannot " + doing + " (" + said + "), expected files that agree",
                error);
    }

    private Generator live() {
        if (generator == null) {
            throw PalmtopException.input("the session of this conversation is closed, expected an open one");
        }
        return generator;
    }

    private static long handle(Generator generator) {
        try {
            Field field = Generator.class.getDeclaredField("nativeHandle");
            field.setAccessible(true);
            return field.getLong(generator);
        } catch (ReflectiveOperationException error) {
            throw new PalmtopException(
                    PalmtopException.Kind.INTERNAL,
                    "this onnxruntime-genai library is not one that palmtop knows (no nativeHandle); expected 0.13.1",
                    error);
        }
    }
}
