package org.palmtop.core.engine;

import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.palmtop.core.PalmtopException;
import org.palmtop.core.bundle.Manifest;
import org.palmtop.core.bundle.PythonText;

/** What a bundle will need, by the arithmetic of {@code runtime/memory.py}; allocates nothing. */
public final class MemoryPlan {
    /** The app, its Java heap, onnxruntime and genai: the same allowance as the Python runtime's. */
    static final long BASE_BYTES = 128L << 20;
    public static final int MINIMUM_CONTEXT = 64;
    private static final double PREPACKED_SHARE = 1.1;
    private static final int ACTIVATION_WIDTHS = 16;
    private static final List<String> ENCODER_PARTS = Arrays.asList("vision encoder", "audio encoder");
    private static final String UNPACKED_PART = "norms and tables";

    public final int context;
    public final int mediaRows;
    public final long weights;
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
        long decoderBytes = 0;
        for (Manifest.BundleFile file : manifest.files.values()) {
            decoderBytes += file.sizeBytes;
        }
        long largestEncoder = 0;
        Manifest.Encoder[] towers = {manifest.vision, manifest.audio};
        for (int i = 0; i < towers.length; i++) {
            if (towers[i] != null) {
                long stored = graphBytes(manifest, towers[i].file);
                decoderBytes -= stored;
                long whole = stored + prepacked(manifest, ENCODER_PARTS.get(i), stored) + towers[i].bytesPerItem;
                largestEncoder = Math.max(largestEncoder, whole);
            }
        }
        this.manifest = manifest;
        this.context = context;
        this.mediaRows = !hasMedia ? 0 : mediaRows == null ? context : mediaRows;
        this.weights = decoderBytes;
        this.prepacked = prepacked(manifest, null, decoderBytes);
        this.kvCache = context * kvBytesPerToken(manifest);
        this.media = this.mediaRows * (long) decoder.hiddenSize * 4 + context * 8L;
        this.encoders = largestEncoder;
        this.activations = 4
                * (Math.min(chunk, context) * (long) decoder.hiddenSize * ACTIVATION_WIDTHS + 2L * decoder.vocabSize);
        this.base = BASE_BYTES;
    }

    /** Of everything. */
    public long total() {
        return kvCache + media + weights + prepacked + encoders + activations + base;
    }

    /** The longest context for which this plan, otherwise unchanged, fits; 0 when none of any use does. */
    public int largestContext(long availableBytes) {
        long perToken = kvBytesPerToken(manifest) + 8;
        if (mediaRows == context) {
            perToken += manifest.decoder.hiddenSize * 4L;
        }
        long fixed = total() - context * perToken;
        long fits = Math.min((availableBytes - fixed) / perToken, manifest.decoder.contextLength);
        return fits >= MINIMUM_CONTEXT ? (int) fits : 0;
    }

    /** Refuse a plan that needs more than there is, with the numbers and the largest context that would fit. */
    public void check(long availableBytes) {
        if (total() <= availableBytes) {
            return;
        }
        int largest = largestContext(availableBytes);
        String wayOut = largest > 0 ? "a context of at most " + largest + " tokens would fit" : "no context would fit";
        throw new PalmtopException(
                PalmtopException.Kind.MEMORY,
                manifest.model + " with a context of " + context + " tokens needs " + megabytes(total()) + " (weights "
                        + megabytes(weights + prepacked) + ", KV cache " + megabytes(kvCache) + ", media "
                        + megabytes(media) + ", encoders " + megabytes(encoders) + ", the rest "
                        + megabytes(activations + base) + "), there are " + megabytes(availableBytes) + "; " + wayOut);
    }

    /** For people: "12.3 MB" or "4.56 GB". */
    public static String megabytes(long bytes) {
        return bytes >= 1e9 ? PythonText.fixed(bytes / 1e9, 2) + " GB" : PythonText.fixed(bytes / 1e6, 1) + " MB";
    }

    private static long kvBytesPerToken(Manifest manifest) {
        Manifest.Decoder decoder = manifest.decoder;
        return 2L * decoder.numLayers * decoder.numKvHeads * decoder.headSize * 4;
    }

    /** Copies that a graph's kernels make of its MatMul weights; {@code encoder} null is the decoder. */
    private static long prepacked(Manifest manifest, String encoder, long stored) {
        double copied = 0;
        for (Manifest.Part part : manifest.parts) {
            String tower = null;
            for (String name : ENCODER_PARTS) {
                tower = tower == null && part.name.startsWith(name) ? name : tower;
            }
            boolean isOurs = tower == null ? encoder == null : tower.equals(encoder);
            if (isOurs && !part.name.equals(UNPACKED_PART)) {
                copied += part.sizeBytes * (part.bits < 16 ? PREPACKED_SHARE : 1);
            }
        }
        return (long) Math.min(copied, stored * PREPACKED_SHARE);
    }

    /** Of an .onnx file and of the external data file that has its name. */
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
