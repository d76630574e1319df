package org.palmtop.core.media;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;
import org.palmtop.core.bundle.ImageSpec;

/**
 * The view of a whole image and its slices, ready for the vision encoder; the arithmetic of
 * {@code processor/images/slices.py}.
 *
 * <p>Held as bytes, 3 per pixel; a view is converted to floats when needed.
 */
public final class Slices implements PreparedImage {
    private static final String[] INPUTS = {"pixel_values", "position_ids"};
    private static final ImageBatch.Element[] ELEMENTS = {ImageBatch.Element.FLOAT, ImageBatch.Element.INT64};

    public final SlicesLayout layout;
    private final ImageSpec.Slices spec;
    private final byte[][] whole;
    private final byte[][] large;
    private final float[][] levels = new float[3][256];

    /** @param pixels may be smaller than the image that the layout was made for. */
    public Slices(PixelRows pixels, SlicesLayout layout, ImageSpec.Slices spec) {
        this.layout = layout;
        this.spec = spec;
        whole = resized(pixels, layout.width, layout.height);
        boolean isCut = layout.views() > 1;
        large = isCut
                ? resized(pixels, layout.sliceWidth * layout.columns, layout.sliceHeight * layout.rows)
                : new byte[3][0];
        for (int channel = 0; channel < 3; channel++) {
            for (int level = 0; level < 256; level++) {
                levels[channel][level] = (level / 255f - (float) spec.mean[channel]) / (float) spec.std[channel];
            }
        }
    }

    @Override
    public int views() {
        return layout.views();
    }

    @Override
    public String[] outputs() {
        return new String[] {"image_features"};
    }

    /** The whole image alone, or slices, which all have one size. */
    @Override
    public ImageBatch batch(int first, int atMost) {
        int count = first == 0 ? 1 : Math.min(atMost, views() - first);
        int wide = first == 0 ? layout.width : layout.sliceWidth;
        int high = first == 0 ? layout.height : layout.sliceHeight;
        ByteBuffer values = buffer(4L * count * 3 * wide * high);
        FloatBuffer floats = values.asFloatBuffer();
        for (int view = first; view < first + count; view++) {
            pixels(view, floats);
        }
        long[] positions = SlicesLayout.positions(wide, high, spec);
        ByteBuffer ids = buffer(8L * positions.length);
        LongBuffer longs = ids.asLongBuffer();
        longs.put(positions);
        long[][] shapes = {{count, 3, high, wide}, {positions.length}};
        int[] rows = {count * spec.queries};
        return new ImageBatch(first, count, INPUTS, new ByteBuffer[] {values, ids}, shapes, ELEMENTS, rows);
    }

    @Override
    public void place(ImageBatch batch, float[][] outputs, int hiddenSize, FloatBuffer into) {
        FloatBuffer there = into.duplicate();
        there.position(batch.first * spec.queries * hiddenSize);
        there.put(outputs[0]);
    }

    /** Write the pixels of one view, [3, height, width]; slices are numbered from 1, in rows. */
    public void pixels(int view, FloatBuffer into) {
        int top = view == 0 ? 0 : (view - 1) / layout.columns * layout.sliceHeight;
        int left = view == 0 ? 0 : (view - 1) % layout.columns * layout.sliceWidth;
        int wide = view == 0 ? layout.width : layout.sliceWidth;
        int high = view == 0 ? layout.height : layout.sliceHeight;
        int stride = view == 0 ? layout.width : layout.sliceWidth * layout.columns;
        byte[][] planes = view == 0 ? whole : large;
        for (int channel = 0; channel < 3; channel++) {
            for (int y = top; y < top + high; y++) {
                for (int x = left; x < left + wide; x++) {
                    into.put(levels[channel][planes[channel][y * stride + x] & 255]);
                }
            }
        }
    }

    /** Three planes of bytes of this size; transparent pixels are laid over white. */
    private static byte[][] resized(PixelRows pixels, int width, int height) {
        int from = pixels.width();
        BicubicResize horizontal = from == width ? null : new BicubicResize(from, width);
        byte[][] planes = new byte[3][width * pixels.height()];
        int[] argb = new int[from];
        byte[] line = new byte[from];
        for (int y = 0; y < pixels.height(); y++) {
            pixels.row(y, argb);
            for (int channel = 0; channel < 3; channel++) {
                int shift = 16 - 8 * channel;
                for (int x = 0; x < from; x++) {
                    line[x] = DynamicHd.overWhite(argb[x] >>> 24, argb[x] >> shift & 255);
                }
                if (horizontal == null) {
                    System.arraycopy(line, 0, planes[channel], y * width, width);
                } else {
                    horizontal.row(line, planes[channel], y * width);
                }
            }
        }
        if (pixels.height() == height) {
            return planes;
        }
        BicubicResize vertical = new BicubicResize(pixels.height(), height);
        for (int channel = 0; channel < 3; channel++) {
            byte[] result = new byte[width * height];
            for (int y = 0; y < height; y++) {
                vertical.column(planes[channel], width, y, result, y * width);
            }
            planes[channel] = result;
        }
        return planes;
    }

    private static ByteBuffer buffer(long bytes) {
        return ByteBuffer.allocateDirect((int) bytes).order(ByteOrder.nativeOrder());
    }
}
