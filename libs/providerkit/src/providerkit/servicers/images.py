"""ImageService on the wire."""

from __future__ import annotations

from common import v1

from providerkit.images import Images

from .context import Context


class ImageServicer:
    """Translates ImageService."""

    def __init__(self, images: Images) -> None:
        self._images = images

    async def prepare_image(self, request: v1.PrepareImageRequest, context: Context) -> v1.PrepareImageResponse:
        """Make an image ready."""
        image, operation = await self._images.prepare(request, remaining=context.time_remaining())
        return v1.PrepareImageResponse(image=image, operation=operation)

    async def get_image(self, request: v1.GetImageRequest, context: Context) -> v1.GetImageResponse:
        """One prepared image."""
        return v1.GetImageResponse(image=await self._images.get(request.id))

    async def list_images(self, request: v1.ListImagesRequest, context: Context) -> v1.ListImagesResponse:
        """Every prepared image."""
        return v1.ListImagesResponse(images=await self._images.all())

    async def delete_image(self, request: v1.DeleteImageRequest, context: Context) -> v1.DeleteImageResponse:
        """Remove one."""
        await self._images.delete(request.id)
        return v1.DeleteImageResponse()
