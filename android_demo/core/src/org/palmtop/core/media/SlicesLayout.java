package org.palmtop.core.media;

import java.util.ArrayList;
import java.util.List;
import org.palmtop.core.PalmtopException;
import org.palmtop.core.bundle.ImageSpec;

/** Grid, sizes and markup of an image in slices, from its size, by the rules of {@code processor/images/slices.py}. */
public final class SlicesLayout {
    /** Place in the markup for the number of the image, counted from 0 over the whole prompt. */
    public static final String INDEX = "{index}";

    private static final String BETWEEN_ROWS = "\n";
    private static final int VECTOR_LANES = 8;

    /** Slices; 0 and 0 for an image that is not cut. */
    public final int rows;
    public final int columns;
    /** The view of the whole image. */
    public final int width;
    public final int height;
    public final int sliceWidth;
    public final int sliceHeight;
    private final ImageSpec.Slices spec;

    public SlicesLayout(int imageWidth, int imageHeight, ImageSpec.Slices spec) {
        this.spec = spec;
        int[] grid = bestGrid(imageWidth, imageHeight, spec);
        int[] whole = viewSize(imageWidth, imageHeight, spec);
        width = whole[0];
        height = whole[1];
        columns = grid == null ? 0 : grid[0];
        rows = grid == null ? 0 : grid[1];
        int[] slice = {0, 0};
        if (grid != null) {
            double across = (double) whole(imageWidth, columns) / columns;
            double down = (double) whole(imageHeight, rows) / rows;
            slice = viewSize(across, down, spec);
        }
        sliceWidth = slice[0];
        sliceHeight = slice[1];
    }

    /** The whole image and the slices. */
    public int views() {
        return 1 + rows * columns;
    }

    /** Feature rows of the image: the number of its ids in the prompt. */
    public int featureRows() {
        return views() * spec.queries;
    }

    /** Texts before, between and after the rows of the views: one more than views. */
    public List<String> markup() {
        List<String> texts = new ArrayList<String>();
        String text = spec.numberMarkup == null ? "" : spec.numberMarkup[0] + INDEX + spec.numberMarkup[1];
        for (int view = 0; view < views(); view++) {
            String[] around = view == 0 ? spec.imageMarkup : spec.sliceMarkup;
            boolean isNewRow = view > 1 && (view - 1) % columns == 0;
            texts.add(text + (isNewRow ? BETWEEN_ROWS : "") + around[0]);
            text = around[1];
        }
        texts.add(text);
        return texts;
    }

    /** Trained position of each patch of a view of this size, in rows. */
    public static long[] positions(int viewWidth, int viewHeight, ImageSpec.Slices spec) {
        int[] down = nearestPositions(viewHeight / spec.patchSize, spec.trainedSide);
        int[] across = nearestPositions(viewWidth / spec.patchSize, spec.trainedSide);
        long[] ids = new long[down.length * across.length];
        for (int row = 0; row < down.length; row++) {
            for (int column = 0; column < across.length; column++) {
                ids[row * across.length + column] = (long) down[row] * spec.trainedSide + across[column];
            }
        }
        return ids;
    }

    /** Trained position of each of a side's patches; fractions of torch's arange, as in {@code patch_positions.py}. */
    public static int[] nearestPositions(int count, int side) {
        double step = 1f / count;
        float[] boundaries = new float[side - 1];
        for (int i = 0; i < boundaries.length; i++) {
            boundaries[i] = (float) (1.0 / side + i * (1.0 / side));
        }
        int[] found = new int[count];
        for (int i = 0; i < count; i++) {
            int lane = i % VECTOR_LANES;
            boolean isInBlock = i < count / VECTOR_LANES * VECTOR_LANES;
            float fraction = isInBlock ? (float) ((float) (step * (i - lane)) + step * lane) : (float) (step * i);
            int place = 0;
            while (place < boundaries.length && boundaries[place] <= fraction) {
                place++;
            }
            found[i] = place;
        }
        return found;
    }

    /** (columns, rows) of the grid whose shape is nearest to the image's; null for an image that is not cut. */
    private static int[] bestGrid(int width, int height, ImageSpec.Slices spec) {
        double area = (double) spec.scaleResolution * spec.scaleResolution;
        int wanted = (int) Math.min(Math.ceil((double) width * height / area), spec.maxSlices);
        if (wanted <= 1) {
            return null;
        }
        double shape = Math.log((double) width / height);
        int[] best = {1, 1};
        double smallest = Double.POSITIVE_INFINITY;
        for (int count = wanted - 1; count <= wanted + 1; count++) {
            for (int wide = 1; wide <= count && count != 1 && count <= spec.maxSlices; wide++) {
                int high = count / wide;
                double error = Math.abs(shape - Math.log((double) wide / high));
                if (count % wide == 0 && error < smallest) {
                    best = new int[] {wide, high};
                    smallest = error;
                }
            }
        }
        return best;
    }

    private static int[] viewSize(double width, double height, ImageSpec.Slices spec) {
        double ratio = width / height;
        int high = (int) (spec.scaleResolution / Math.sqrt(ratio));
        int wide = (int) (high * ratio);
        if (Math.min(wide, high) < spec.patchSize) {
            throw PalmtopException.input("the image is too narrow: found " + shown(width) + " x " + shown(height)
                    + " pixels, which become " + wide + " x " + high + ", expected at least " + spec.patchSize
                    + " on each side");
        }
        return new int[] {whole(wide, spec.patchSize), whole(high, spec.patchSize)};
    }

    private static String shown(double length) {
        return length == Math.rint(length) ? String.valueOf((long) length) : String.valueOf(length);
    }

    /** The nearest multiple of {@code part} that is not 0; of two equally near ones the even multiple. */
    private static int whole(int length, int part) {
        return Math.max((int) Math.rint((double) length / part) * part, part);
    }
}
