package org.palmtop.core.media;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.util.Arrays;
import org.palmtop.core.bundle.ImageSpec;

/**
 * An image on its grid, ready for the vision encoder; the arithmetic of {@code processor/images/dynamic_hd.py}.
 *
 * <p>Held as bytes: 3 per pixel of the grid. A view is converted to floats when needed.
 */
public final class DynamicHd implements PreparedImage {
    private static final String[] INPUTS = {"pixel_values", "patch_mask"};
    private static final ImageBatch.Element[] ELEMENTS = {ImageBatch.Element.FLOAT, ImageBatch.Element.BOOL};

    public final DynamicHdLayout layout;
    private final ImageSpec.DynamicHd spec;
    private final byte[][] canvas = new byte[3][];
    private final float[][] levels = new float[3][256];
    private final int canvasWidth;
    private int[][] wanted;
    private ByteBuffer values;
    private ByteBuffer masks;

    /** @param pixels may be smaller than the image that the layout was made for. */
    public DynamicHd(PixelRows pixels, DynamicHdLayout layout, ImageSpec.DynamicHd spec) {
        this.layout = layout;
        this.spec = spec;
        canvasWidth = layout.columns * spec.cropSize;
        byte[][] narrow = narrow(pixels);
        boolean isHigh = pixels.height() == layout.height;
        TriangleResize vertical = isHigh ? null : new TriangleResize(pixels.height(), layout.height);
        for (int channel = 0; channel < 3; channel++) {
            canvas[channel] = new byte[layout.rows * spec.cropSize * canvasWidth];
            Arrays.fill(canvas[channel], (byte) 255);
            for (int y = 0; y < layout.height; y++) {
                if (isHigh) {
                    System.arraycopy(narrow[channel], y * layout.width, canvas[channel], y * canvasWidth, layout.width);
                } else {
                    vertical.column(narrow[channel], layout.width, y, canvas[channel], y * canvasWidth);
                }
            }
            narrow[channel] = null;
            // Mean and deviation are scaled to 0..255 in single precision first, as the reference does.
            float mean = (float) spec.mean[channel] * 255f;
            float deviation = (float) spec.std[channel] * 255f;
            for (int level = 0; level < 256; level++) {
                levels[channel][level] = (level - mean) / deviation;
            }
        }
    }

    @Override
    public int views() {
        return layout.views();
    }

    @Override
    public String[] outputs() {
        return new String[] {"tile_features", "separators"};
    }

    @Override
    public ImageBatch batch(int first, int atMost) {
        int count = Math.min(atMost, views() - first);
        if (values == null) { // the first run is the largest
            values = buffer(4L * count * 3 * spec.cropSize * spec.cropSize);
            masks = buffer((long) count * spec.patches() * spec.patches());
        }
        FloatBuffer floats = values.asFloatBuffer();
        masks.clear();
        for (int view = first; view < first + count; view++) {
            pixels(view, floats);
            mask(view, masks);
        }
        long[][] shapes = {{count, 3, spec.cropSize, spec.cropSize}, {count, spec.patches(), spec.patches()}};
        int[] rows = {count * spec.pooled() * spec.pooled(), 2};
        return new ImageBatch(first, count, INPUTS, new ByteBuffer[] {values, masks}, shapes, ELEMENTS, rows);
    }

    /** Rows come view by view, but are read in another order. */
    @Override
    public void place(ImageBatch batch, float[][] outputs, int hiddenSize, FloatBuffer into) {
        int rowsPerView = spec.pooled() * spec.pooled();
        if (wanted == null) {
            wanted = inverse(layout.featureOrder(), views() * rowsPerView + 2);
        }
        scatter(outputs[0], batch.first * rowsPerView, hiddenSize, into);
        if (batch.first == 0) {
            scatter(outputs[1], views() * rowsPerView, hiddenSize, into);
        }
    }

    /** Write {@code pixel_values} of one view: [3, C, C]. */
    public void pixels(int view, FloatBuffer into) {
        for (int channel = 0; channel < 3; channel++) {
            if (view == 0) {
                overview(channel, into);
                continue;
            }
            int top = (view - 1) / layout.columns * spec.cropSize;
            int left = (view - 1) % layout.columns * spec.cropSize;
            for (int y = top; y < top + spec.cropSize; y++) {
                for (int x = left; x < left + spec.cropSize; x++) {
                    into.put(levels[channel][canvas[channel][y * canvasWidth + x] & 255]);
                }
            }
        }
    }

    /** Write {@code patch_mask} of one view: [P, P], a byte each. */
    public void mask(int view, ByteBuffer into) {
        for (int row = 0; row < spec.patches(); row++) {
            for (int column = 0; column < spec.patches(); column++) {
                into.put((byte) (layout.isVisible(view, row, column) ? 1 : 0));
            }
        }
    }

    /** The whole canvas at the size of a tile; in single precision and in numpy's order of operations. */
    private void overview(int channel, FloatBuffer into) {
        int side = spec.cropSize;
        CubicTaps rows = new CubicTaps(layout.rows * side, side);
        CubicTaps columns = new CubicTaps(canvasWidth, side);
        float[] line = new float[canvasWidth];
        for (int y = 0; y < side; y++) {
            Arrays.fill(line, 0f);
            for (int tap = 0; tap < 4; tap++) {
                int start = rows.places[y][tap] * canvasWidth;
                float weight = rows.weights[y][tap];
                for (int x = 0; x < canvasWidth; x++) {
                    line[x] += levels[channel][canvas[channel][start + x] & 255] * weight;
                }
            }
            for (int x = 0; x < side; x++) {
                float sum = 0;
                for (int tap = 0; tap < 4; tap++) {
                    sum += line[columns.places[x][tap]] * columns.weights[x][tap];
                }
                into.put(sum);
            }
        }
    }

    /** The image at its final width, three planes of bytes; transparent pixels are laid over white. */
    private byte[][] narrow(PixelRows pixels) {
        int width = pixels.width();
        TriangleResize horizontal = width == layout.width ? null : new TriangleResize(width, layout.width);
        byte[][] planes = new byte[3][layout.width * pixels.height()];
        int[] argb = new int[width];
        byte[] line = new byte[width];
        for (int y = 0; y < pixels.height(); y++) {
            pixels.row(y, argb);
            for (int channel = 0; channel < 3; channel++) {
                int shift = 16 - 8 * channel;
                for (int x = 0; x < width; x++) {
                    line[x] = overWhite(argb[x] >>> 24, argb[x] >> shift & 255);
                }
                if (horizontal == null) {
                    System.arraycopy(line, 0, planes[channel], y * width, width);
                } else {
                    horizontal.row(line, 0, planes[channel], y * layout.width);
                }
            }
        }
        return planes;
    }

    /** Pillow's alpha_composite onto opaque white, with its integer rounding. */
    static byte overWhite(int alpha, int level) {
        if (alpha == 255) {
            return (byte) level;
        }
        int blend = level * alpha + 255 * (255 - alpha) + 128 << 7;
        return (byte) ((blend >> 8) + blend >> 8 >> 7);
    }

    /** Put rows numbered from {@code first} wherever they are wanted. */
    private void scatter(float[] rows, int first, int hiddenSize, FloatBuffer into) {
        for (int row = 0; row < rows.length / hiddenSize; row++) {
            for (int place : wanted[first + row]) {
                FloatBuffer there = into.duplicate();
                there.position(place * hiddenSize);
                there.put(rows, row * hiddenSize, hiddenSize);
            }
        }
    }

    /** For each encoder output the places that hold its number. */
    private static int[][] inverse(int[] order, int outputs) {
        int[] counts = new int[outputs];
        for (int number : order) {
            counts[number]++;
        }
        int[][] places = new int[outputs][];
        for (int number = 0; number < outputs; number++) {
            places[number] = new int[counts[number]];
        }
        for (int place = 0; place < order.length; place++) {
            places[order[place]][--counts[order[place]]] = place;
        }
        return places;
    }

    private static ByteBuffer buffer(long bytes) {
        return ByteBuffer.allocateDirect((int) bytes).order(ByteOrder.nativeOrder());
    }
}
