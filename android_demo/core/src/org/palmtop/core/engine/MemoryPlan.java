package org.palmtop.core.engine;

import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.palmtop.core.DecimalText;
import org.palmtop.core.PalmtopException;
import org.palmtop.core.bundle.Manifest;
import org.palmtop.core.bundle.ImageSpec;
import org.palmtop.core.bundle.State;

/** Memory plan of a bundle, with the arithmetic of {@code runtime/memory/plan.py}; allocates nothing. */
public final class MemoryPlan {
    /** The app, its Java heap, onnxruntime and genai: the same allowance as the Python runtime's. */
    static final long BASE_BYTES = 176L << 20;
    public static final int MINIMUM_CONTEXT = 64;
    private static final int TOKENIZER_COPIES = 6;
    private static final int ACTIVATION_WIDTHS = 16;
    private static final List<String> ENCODER_PARTS = Arrays.asList("vision encoder", "audio encoder");
    private static final String UNPACKED_PART = "norms and tables";

    public final int context;
    public final int mediaRows;
    /** Pages of the decoder's files that loading maps. */
    public final long weights;
    /** Bytes of those that the kernels keep reading. */
    public final long usedWeights;
    /** Copies of the decoder's weights in the kernels' own layout. */
    public final long prepacked;
    public final long kvCache;
    public final long media;
    public final long encoders;
    public final long activations;
    public final long base;
    private final Manifest manifest;

    /** @param mediaRows null reserves as many as the context could hold. */
    public MemoryPlan(Manifest manifest, int context, Integer mediaRows, int chunk) {
        Manifest.Decoder decoder = manifest.decoder;
        boolean hasMedia = manifest.vision != null || manifest.audio != null;
        this.manifest = manifest;
        this.context = context;
        this.mediaRows = !hasMedia ? 0 : mediaRows == null ? context : mediaRows;
        long mapped = 0;
        long used = 0;
        long packed = 0;
        int level = accuracyLevel(manifest);
        for (Manifest.Part part : manifest.parts) {
            if (!ENCODER_PARTS.contains(part.name)) {
                long[] loaded = loaded(part, level);
                mapped += loaded[0];
                used += loaded[1];
                packed += loaded[2];
            }
        }
        this.weights = mapped;
        this.usedWeights = used;
        this.prepacked = packed;
        this.kvCache = context * kvBytesPerToken(manifest) + fixedBytes(manifest);
        this.media = this.mediaRows * (long) decoder.hiddenSize * 4 + context * 8L;
        long vision = manifest.vision == null ? 0
                : graphBytes(manifest, manifest.vision.file) + manifest.vision.bytesPerItem + visionInput();
        long audio = manifest.audio == null ? 0
                : graphBytes(manifest, manifest.audio.file) + manifest.audio.bytesPerItem
                        + this.mediaRows * (long) decoder.hiddenSize * 4;
        this.encoders = Math.max(vision, audio);
        this.activations = 4
                * (Math.min(chunk, context) * (long) decoder.hiddenSize * ACTIVATION_WIDTHS + 2L * decoder.vocabSize);
        Manifest.BundleFile tokenizer = manifest.files.get("tokenizer.json");
        this.base = BASE_BYTES + (tokenizer == null ? 0 : tokenizer.sizeBytes * TOKENIZER_COPIES);
    }

    /** Peak while the decoder is loaded. */
    public long loading() {
        return weights + prepacked + base;
    }

    /** Peak of text turns, once loaded. */
    public long talking() {
        return prepacked + usedWeights + kvCache + media + activations + base;
    }

    /** Peak of a session that never reads media. */
    public long text() {
        return Math.max(loading(), talking());
    }

    /** Peak of a session that reads images or sounds while a conversation is open. */
    public long total() {
        return Math.max(loading(), talking() + encoders);
    }

    /** The longest context for which this plan, otherwise unchanged, fits; 0 when none of any use does. */
    public int largestContext(long availableBytes) {
        if (loading() > availableBytes) {
            return 0;
        }
        long perToken = kvBytesPerToken(manifest) + 8;
        if (mediaRows == context) {
            perToken += manifest.decoder.hiddenSize * 4L;
        }
        long fixed = talking() - context * perToken;
        long fits = Math.min((availableBytes - fixed) / perToken, manifest.decoder.contextLength);
        return fits >= MINIMUM_CONTEXT ? (int) fits : 0;
    }

    /** Refuse to load what needs more than there is, with the numbers and the largest context that would fit. */
    public void check(long availableBytes) {
        if (text() <= availableBytes) {
            return;
        }
        int largest = largestContext(availableBytes);
        String wayOut = largest > 0 ? "a context of at most " + largest + " tokens would fit" : "no context would fit";
        throw new PalmtopException(
                PalmtopException.Kind.MEMORY,
                manifest.model + " with a context of " + context + " tokens needs " + megabytes(text()) + " (weights "
                        + megabytes(prepacked + usedWeights) + ", while loading " + megabytes(weights)
                        + " more, KV cache " + megabytes(kvCache) + ", media " + megabytes(media) + ", the rest "
                        + megabytes(activations + base) + "), there are " + megabytes(availableBytes) + "; " + wayOut);
    }

    /** Refuse to load an encoder that does not fit beside what is loaded already. */
    public void checkEncoder(long availableBytes) {
        if (encoders > availableBytes) {
            throw new PalmtopException(
                    PalmtopException.Kind.MEMORY,
                    "reading images or sounds needs " + megabytes(encoders) + " for the encoder, there are "
                            + megabytes(Math.max(0, availableBytes))
                            + "; a session with a smaller context leaves more");
        }
    }

    /** Bytes as text: "12.3 MB" or "4.56 GB". */
    public static String megabytes(long bytes) {
        return bytes >= 1e9 ? DecimalText.fixed(bytes / 1e9, 2) + " GB" : DecimalText.fixed(bytes / 1e6, 1) + " MB";
    }

    private static long kvBytesPerToken(Manifest manifest) {
        long sum = 0;
        for (State state : manifest.decoder.states) {
            sum += state.isPerToken() ? state.sizeBytes() : 0;
        }
        return sum;
    }

    /** Bytes of the states whose size does not grow with the sequence. */
    private static long fixedBytes(Manifest manifest) {
        long sum = 0;
        for (State state : manifest.decoder.states) {
            sum += state.isPerToken() ? 0 : state.sizeBytes();
        }
        return sum;
    }

    /** Mapped pages, those still read, and copies, of a part once it is loaded; see {@code runtime/memory/plan.py}. */
    private static long[] loaded(Manifest.Part part, int accuracyLevel) {
        long size = part.sizeBytes;
        if (part.bits >= 16 || part.group == 0) {
            boolean isRead = part.name.equals(UNPACKED_PART);
            return new long[] {size, isRead ? size : 0, isRead ? 0 : size};
        }
        long codes = Math.min(size, part.parameters * part.bits / 8);
        long scales = Math.min(size - codes, part.parameters / part.group * 4);
        long mapped = part.name.startsWith("adapter ") ? size : size - codes;
        return accuracyLevel == 4
                ? new long[] {mapped, size - codes - scales, codes + 2 * scales}
                : new long[] {mapped, size - codes, codes};
    }

    private static int accuracyLevel(Manifest manifest) {
        Object level = manifest.recipe.get("accuracy_level");
        return level instanceof Number ? ((Number) level).intValue() : 4;
    }

    /** Pixels of an image, and feature rows on their way. */
    private long visionInput() {
        long width = manifest.decoder.hiddenSize * 4L;
        ImageSpec image = manifest.processor.image;
        if (image == null) {
            return mediaRows * width;
        }
        return image.workingBytes(mediaRows, width);
    }

    /** Bytes of an .onnx file and of its external data file. */
    private static long graphBytes(Manifest manifest, String file) {
        long sum = 0;
        for (Map.Entry<String, Manifest.BundleFile> entry : manifest.files.entrySet()) {
            if (stem(entry.getKey()).equals(stem(file))) {
                sum += entry.getValue().sizeBytes;
            }
        }
        return sum;
    }

    private static String stem(String path) {
        String name = path.substring(path.lastIndexOf('/') + 1);
        int dot = name.lastIndexOf('.');
        return dot > 0 ? name.substring(0, dot) : name;
    }
}
