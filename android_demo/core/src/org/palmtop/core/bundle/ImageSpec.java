package org.palmtop.core.bundle;

import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.palmtop.core.bundle.JsonFields.Field;

/** Settings of a kind of image processor ({@code bundle/processor_config.py}); a kind is a class of its name in {@code core.media}. */
public abstract class ImageSpec {
    static final List<String> KINDS = Arrays.asList("dynamic_hd", "slices");
    private static final String MAX_ID = "16777215";
    private static final long MAX_TILE_PIXELS = 1L << 27;

    public final int tokenId;
    public final int patchSize;
    public final double[] mean;
    public final double[] std;
    /** Text between an image and what follows it in a message. */
    public final String separator;

    private ImageSpec(Map<String, Object> data, String separator) {
        tokenId = ProcessorSpec.integer(data, "token_id");
        patchSize = ProcessorSpec.integer(data, "patch_size");
        mean = ProcessorSpec.numbers(data.get("mean"));
        std = ProcessorSpec.numbers(data.get("std"));
        this.separator = separator;
    }

    /** Bytes of the pixels and of the feature rows on their way. */
    public abstract long workingBytes(long rows, long rowBytes);

    /** Dynamic-HD tiling and the layout of an image's feature rows. */
    public static final class DynamicHd extends ImageSpec {
        public final int cropSize;
        public final int maxTiles;

        DynamicHd(Map<String, Object> data) {
            super(data, "");
            cropSize = ProcessorSpec.integer(data, "crop_size");
            maxTiles = ProcessorSpec.integer(data, "max_tiles");
            if (patchSize > cropSize) {
                throw JsonFields.refuse("processor.image.patch_size", patchSize, "at most crop_size, " + cropSize);
            }
            checkPixels("max_tiles", maxTiles, "crop_size", cropSize);
        }

        /** Patches along one side of a tile. */
        public int patches() {
            return cropSize / patchSize;
        }

        /** Feature rows along one side of a tile, after 2x2 pooling. */
        public int pooled() {
            return (patches() + 1) / 2;
        }

        @Override
        public long workingBytes(long rows, long rowBytes) {
            long pooled = pooled();
            long tiles = Math.min(1L + maxTiles, 1 + rows / Math.max(1, pooled * pooled));
            long kept = Math.min(rows, tiles * (pooled + 1) * (pooled + 1));
            return tiles * 3 * cropSize * cropSize * 4 + kept * rowBytes * 2;
        }
    }

    /** Slicing of an image by its best grid, and the text of the model's markup around the feature rows. */
    public static final class Slices extends ImageSpec {
        public final int scaleResolution;
        public final int maxSlices;
        public final int trainedSide;
        public final int queries;
        /** Texts before and after the number of an image; null without numbers. */
        public final String[] numberMarkup;
        public final String[] imageMarkup;
        public final String[] sliceMarkup;

        Slices(Map<String, Object> data) {
            super(data, (String) data.get("separator"));
            scaleResolution = ProcessorSpec.integer(data, "scale_resolution");
            maxSlices = ProcessorSpec.integer(data, "max_slices");
            trainedSide = ProcessorSpec.integer(data, "trained_side");
            queries = ProcessorSpec.integer(data, "queries");
            numberMarkup = texts(data.get("number_markup"));
            imageMarkup = texts(data.get("image_markup"));
            sliceMarkup = texts(data.get("slice_markup"));
            if (patchSize > scaleResolution) {
                String expected = "at most scale_resolution, " + scaleResolution;
                throw JsonFields.refuse("processor.image.patch_size", patchSize, expected);
            }
            checkPixels("max_slices", maxSlices, "scale_resolution", scaleResolution);
        }

        /** Largest number of patches of a view: sides are rounded to whole patches, half a patch up at most. */
        public long maxPatches() {
            double sides = (double) scaleResolution / patchSize;
            double area = sides * sides;
            long most = 1;
            for (int side = 1; side <= Math.ceil(sides) + 1; side++) {
                most = Math.max(most, side * Math.max(1L, (long) (area / Math.max(1.0, side - 0.5) + 0.5)));
            }
            return most;
        }

        @Override
        public long workingBytes(long rows, long rowBytes) {
            long views = Math.min(1L + maxSlices, Math.max(1, rows / queries));
            long kept = Math.min(rows, views * queries);
            return views * 3 * maxPatches() * patchSize * patchSize * 4 + kept * rowBytes * 2;
        }
    }

    /** The settings of whatever kind it is; the kind is checked already. */
    static ImageSpec read(Object data) {
        if (data == null) {
            return null;
        }
        Object kind = data instanceof Map ? JsonFields.object(data).get("kind") : null;
        return "slices".equals(kind) ? readSlices(data) : readDynamicHd(data);
    }

    private static DynamicHd readDynamicHd(Object data) {
        return new DynamicHd(JsonFields.read(
                data,
                "processor.image",
                Field.oneOf("kind", KINDS.subList(0, 1)),
                new Field("token_id", "int", "0", MAX_ID),
                new Field("crop_size", "int", "1", "4096"),
                new Field("patch_size", "int", "1", "4096"),
                new Field("max_tiles", "int", "1", "1024"),
                new Field("mean", "tuple[float, float, float]", "-1000.0", "1000.0"),
                new Field("std", "tuple[float, float, float]", "1e-06", "1000.0")));
    }

    private static Slices readSlices(Object data) {
        return new Slices(JsonFields.read(
                data,
                "processor.image",
                Field.oneOf("kind", KINDS.subList(1, 2)),
                new Field("token_id", "int", "0", MAX_ID),
                new Field("scale_resolution", "int", "1", "4096"),
                new Field("patch_size", "int", "1", "4096"),
                new Field("max_slices", "int", "1", "1024"),
                new Field("trained_side", "int", "1", "4096"),
                new Field("queries", "int", "1", "65536"),
                new Field("mean", "tuple[float, float, float]", "-1000.0", "1000.0"),
                new Field("std", "tuple[float, float, float]", "1e-06", "1000.0"),
                new Field("number_markup", "tuple[str, str] | None"),
                new Field("image_markup", "tuple[str, str]"),
                new Field("slice_markup", "tuple[str, str]"),
                new Field("separator", "str")));
    }

    private static void checkPixels(String name, int count, String sideName, int side) {
        long pixels = (long) side * side;
        if ((count + 1) * pixels > MAX_TILE_PIXELS) {
            String most = "at most " + (MAX_TILE_PIXELS / pixels - 1) + " with this " + sideName;
            throw JsonFields.refuse("processor.image." + name, count, most);
        }
    }

    private static String[] texts(Object value) {
        return value == null ? null : ((List<?>) value).toArray(new String[0]);
    }
}
